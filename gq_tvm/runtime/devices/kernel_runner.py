"""Kernels called without TVM on the device: by a small C program, on any CPU an emulator knows.

TVM publishes no runtime for 32-bit ARM, and a process with nothing but a kernel in it is easier to
count instructions in.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error
from gq_tvm.toolchain.zig import compile_native, ffi_headers

SOURCE = Path(__file__).with_name("native") / "kernel_runner.c"

_ALIGNMENT = 64
_CODES = {"i": 0, "u": 1, "f": 2}  # DLDataTypeCode of dlpack.h, by NumPy's kind
_MOST_DIMENSIONS = 6


def build(output: Path, machine: str) -> None:
    """Compile the program for a ``Target.machine``. Raises `Error` if that fails."""
    include = ffi_headers()
    compile_native([SOURCE], output, machine, include, ["-rdynamic"])


def write_tensors(path: Path, tensors: Sequence[NDArray]) -> None:
    """Write the arguments of a kernel to the file the program takes."""
    with open(path, "wb") as file:
        for array in tensors:
            shape = [*array.shape, *[0] * (_MOST_DIMENSIONS - array.ndim)]
            code, bits = _CODES[array.dtype.kind], 8 * array.itemsize
            file.write(struct.pack("<4i6q", code, bits, array.ndim, 0, *shape))
            file.write(np.ascontiguousarray(array).tobytes())
            file.write(bytes(-array.nbytes % _ALIGNMENT))


def read_tensors(path: Path, tensors: Sequence[NDArray]) -> list[NDArray]:
    """Read back what `write_tensors` wrote for arrays of these shapes and dtypes."""
    data = np.fromfile(path, np.uint8)
    found, at = [], 0
    for array in tensors:
        at += struct.calcsize("<4i6q")
        part = data[at : at + array.nbytes].copy()
        found.append(part.view(array.dtype).reshape(array.shape))
        at += array.nbytes + -array.nbytes % _ALIGNMENT
    return found


def call(
    program: Sequence[str],
    library: Path,
    function: str,
    tensors: Sequence[NDArray],
    calls: int = 1,
) -> list[NDArray]:
    """Call a kernel and return its arguments as they are afterwards.

    Args:
        program: The command line that runs the program: an emulator and its options before it.
        library: What ``export_library`` wrote.
        function: The kernel.
        tensors: Its arguments; outputs are written over.
        calls: How often it is called.

    Raises:
        Error: the kernel refused its arguments or crashed; the text has what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensors"
        write_tensors(path, tensors)
        command = [*program, str(library), function, str(path), str(calls)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"code {done.returncode}"
            raise Error(f"the kernel {function} failed ({reason})")
        return read_tensors(path, tensors)
