"""The programs and libraries that run bundles, compiled for any device and kept in the cache."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from gq_tvm import cache
from gq_tvm.toolchain.zig import GLIBC, compile_native, ffi_headers

NATIVE = Path(__file__).with_name("native")
RUN, LIBRARY, REPORT = "gq-run", "libgq.so", "report.o"

CORE = (
    "backend.cc",
    "callable.cc",
    "cpu.cc",
    "decoding.cc",
    "log_mel.cc",
    "mapped.cc",
    "metadata.cc",
    "model.cc",
    "plan.cc",
    "plan_check.cc",
    "samples.cc",
    "speech.cc",
)
PROGRAM = ("npy.cc", "profile.cc", "resample.cc", "run.cc", "transcribe.cc", "wav.cc")
OPTIONS = ("-std=c++17", "-fvisibility=hidden", "-pthread", "-D_FILE_OFFSET_BITS=64")


def provide(machine: str) -> Path:
    """Return the folder that holds `RUN`, `LIBRARY` and `REPORT` for a ``Target.machine``.

    The first time for a machine takes a minute, most of it for the C++ library.

    Raises:
        Error: there is no compiler or the cache cannot be written.
    """
    digest = hashlib.sha256(f"{GLIBC} {metadata.version('ziglang')}".encode())
    for path in sorted(NATIVE.iterdir()):
        digest.update(path.read_bytes())
    folder = cache.root() / f"native-{machine}-{digest.hexdigest()[:12]}"
    return cache.provide(folder, lambda made: _compile(made, machine), _complete)


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (RUN, LIBRARY, REPORT))


def _compile(folder: Path, machine: str) -> None:
    include = ffi_headers()
    kept = cache.root() / "zig"
    core = folder / "core.o"  # both have it: compiled once
    sources = [NATIVE / name for name in CORE]
    compile_native(sources, core, machine, include, [*OPTIONS, "-fPIC", "-r"], kept)
    program = [core, *(NATIVE / name for name in PROGRAM)]
    compile_native(program, folder / RUN, machine, include, OPTIONS, kept)
    shared = [*OPTIONS, "-shared", "-fPIC"]
    compile_native([core, NATIVE / "api.cc"], folder / LIBRARY, machine, include, shared, kept)
    core.unlink()
    options = ["-c", "-fPIC"]
    compile_native([NATIVE / "report.c"], folder / REPORT, machine, (), options, kept)
