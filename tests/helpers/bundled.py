"""Bundles in tests: running them, and damaging them with care."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from gq_tvm.plan.text import CHECKSUM, sealed
from gq_tvm.runtime.artefact.folder import KERNELS, PLAN, WEIGHTS


def run(
    *words: object, cwd: Path | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, timeout=timeout
    )


def altered(bundle: Path, folder: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Path:
    """A folder with the model of a bundle, some of whose files are changed."""
    folder.mkdir(exist_ok=True)
    for name in (PLAN, KERNELS, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
        if name in changes:
            (folder / name).write_bytes(changes[name]((bundle / name).read_bytes()))
        else:
            (folder / name).symlink_to(bundle / name)
    return folder


def replanned(bundle: Path, folder: Path, change: Callable[[str], str]) -> Path:
    """The same with a plan that says something else, its checksum made right."""

    def resealed(data: bytes) -> bytes:
        text = change(data.decode())
        return sealed(text[: text.rindex(CHECKSUM)])

    return altered(bundle, folder, {PLAN: resealed})


def with_functions(text: str, functions: str) -> str:
    """A plan for the same files that has other functions."""
    return text[: text.index("function ")] + functions + "checksum\n"
