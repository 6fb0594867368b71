"""The helpers that Python is too slow for, in C: flushing the caches, and the machine's ceilings.

They are compiled on first use by the C compiler of the ``ziglang`` wheel, which is among the
project's dependencies, into the cache of ``gq_tvm.cache``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gq_tvm.cache import provide, root
from gq_tvm.errors import Error
from gq_tvm.targets import native

_SOURCES = Path(__file__).parent
_LARGER_THAN_CACHES = 96 << 20


@cache
def library(name: str) -> ctypes.CDLL:
    """The library of ``<name>.c``.

    Raises:
        Error: it cannot be compiled; the text has the compiler's first complaint.
    """
    source = (_SOURCES / f"{name}.c").read_bytes()
    # -march=native: a cache shared by several machines must not mix them up.
    key = hashlib.sha256(source + cpu().encode()).hexdigest()[:12]
    folder = root() / "benchmarks" / f"{name}-{key}"
    output = f"{name}.so"

    def build(folder: Path) -> None:
        command = [zig(), "cc", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]
        command += ["-o", str(folder / output), str(_SOURCES / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
            raise Error(f"cannot compile benchmarks/native/{name}.c: {reason}")

    provide(folder, build, lambda folder: (folder / output).is_file())
    return ctypes.CDLL(str(folder / output))


def zig() -> str:
    """The compiler of the ``ziglang`` wheel."""
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise Error("there is no C compiler: install the benchmarks' requirements again")
    return str(Path(spec.origin).with_name("zig"))


def flusher() -> Callable[[], None]:
    """A function that fills every cache with other data."""
    flush = library("flush").flush_caches
    flush.argtypes = [ctypes.c_size_t, ctypes.POINTER(ctypes.c_int), ctypes.c_int]
    cores = sorted(os.sched_getaffinity(0))
    numbers = (ctypes.c_int * len(cores))(*cores)

    def run() -> None:
        if flush(_LARGER_THAN_CACHES, numbers, len(cores)):
            raise Error("cannot flush the caches: too little memory or too few threads")

    return run


def cpu() -> str:
    """What code for this CPU alone must be kept apart by."""
    return " ".join([platform.machine(), native.name(), *sorted(native.features())])
