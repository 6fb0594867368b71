"""Building ggml: it has no wheel, so its source is taken from that of llama-cpp-python.

Nothing of it is part of this repository. CMake and Ninja are wheels, the compiler is that of the
``ziglang`` wheel; the result stays in the cache of ``gq_tvm.cache``.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.native import cpu, zig
from gq_tvm.cache import provide, root
from gq_tvm.errors import Error

#: The source package that is asked for, and the folder of ggml in it.
SOURCE = "llama-cpp-python==0.3.36"
_INSIDE = "vendor/llama.cpp/ggml/"
_OURS = Path(__file__).parent
_LIBRARY = "libggmlshim.so"


@cache
def shim() -> ctypes.CDLL:
    """The library of ``shim.cpp`` with ggml in it; the first call takes minutes.

    Raises:
        Error: it cannot be built; the text says in one line why.
    """
    own = b"".join((_OURS / name).read_bytes() for name in ("shim.cpp", "CMakeLists.txt"))
    key = hashlib.sha256(own + SOURCE.encode() + cpu().encode()).hexdigest()[:12]
    folder = root() / "benchmarks" / f"ggml-{key}"
    provide(folder, _build, lambda folder: (folder / _LIBRARY).is_file())
    library = ctypes.CDLL(str(folder / _LIBRARY))
    for name in ("shim_linear", "shim_lstm", "shim_input", "shim_output"):
        getattr(library, name).restype = ctypes.c_void_p
    library.shim_weight_bytes.restype = ctypes.c_size_t
    for name in ("shim_input", "shim_output", "shim_weight_bytes", "shim_run", "shim_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    return library


def _build(folder: Path) -> None:
    print("building ggml (once, minutes)", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        # Only this package from source: what builds it may come as wheels.
        pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work))
        _call(*pip, "--no-binary", SOURCE.partition("=")[0], SOURCE)
        (archive,) = work.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            members = [one for one in tar.getmembers() if f"/{_INSIDE}" in one.name]
            tar.extractall(work, members, filter="data")
        (ggml,) = work.glob(f"*/{_INSIDE}")
        _call(
            "cmake", "-G", "Ninja", "-S", str(_OURS), "-B", str(work / "build"),
            "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_C_COMPILER={zig()};cc",
            f"-DCMAKE_CXX_COMPILER={zig()};c++", f"-DGGML_SOURCE={ggml}",
        )  # fmt: skip
        _call("cmake", "--build", str(work / "build"))
        (work / "build" / _LIBRARY).rename(folder / _LIBRARY)


def _call(*command: str) -> None:
    # CMake and Ninja lie beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
        )
    except OSError as failure:
        raise Error(f"ggml cannot be built: {failure}") from failure
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"]
        raise Error(f"ggml cannot be built: {command[0]} failed: {lines[-1][:160]}")
