"""C and C++ for any target, compiled and linked by the clang and lld of the ``ziglang`` wheel.

It brings headers and libraries of every platform along: no system toolchain and no sysroot.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import tvm_ffi

from gq_tvm.errors import Error

#: The oldest GNU C library that what we compile runs on, as TVM's own wheels do (Ubuntu 18.04).
GLIBC = "2.27"

_PLATFORMS = {
    "x86_64": f"x86_64-linux-gnu.{GLIBC}",
    "aarch64": f"aarch64-linux-gnu.{GLIBC}",
    "armhf": f"arm-linux-gnueabihf.{GLIBC}",
}
# The least CPU of each: Armv7-A with NEON for 32 bits.
_CPUS = {"armhf": ("-mcpu=cortex_a7",)}


def zig() -> str:
    """Return the path of the wheel's program. Raises `Error` if it is not installed."""
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        name = Path(sys.executable).name
        raise Error(f"there is no compiler and no linker: run `{name} -m pip install ziglang`")
    return str(Path(spec.origin).with_name("zig"))


def ffi_headers() -> list[str]:
    """Return the folders of the headers that say how kernels are called (tvm-ffi, DLPack)."""
    return [tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()]


def compile_native(
    sources: Sequence[Path],
    output: Path,
    machine: str,
    include: Sequence[str | os.PathLike[str]] = (),
    options: Sequence[str] = (),
    cache: Path | None = None,
) -> None:
    """Compile C or C++ files (``.cc``) into a program, or with ``-shared`` a library.

    Args:
        sources: The files; if any is C++, all are compiled and linked as such (libc++, static).
        output: What to write.
        machine: ``Target.machine`` of the device.
        include: Folders of headers.
        options: More options of clang.
        cache: Folder in which the compiler keeps what it can use again (for C++ its library, a
            minute's work); none is kept for None.

    Raises:
        Error: there is no compiler, or it refuses.
    """
    language = "c++" if any(path.suffix == ".cc" for path in sources) else "cc"
    command = [zig(), language, "-O2", "-s", "-target", _PLATFORMS[machine]]
    command += [*_CPUS.get(machine, ()), *(f"-I{folder}" for folder in include)]
    command += ["-o", str(output), *map(str, sources), *options, "-ldl", "-lm"]
    with tempfile.TemporaryDirectory() as empty:
        kept = str(cache or empty)
        folders = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), kept)
        done = subprocess.run(
            command, env={**os.environ, **folders}, capture_output=True, text=True, check=False
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Error(f"{output.name} for {machine} does not compile ({reason})")
