"""Weights on disk: a safetensors file whose every tensor starts at a multiple of 64 bytes.

The format (https://github.com/huggingface/safetensors, "Format") is eight bytes of header length, a
JSON header, and the tensors' bytes without gaps. TVM's kernels need 64-byte alignment to map the
file instead of copying it, so fillers named ``.fill.<n>`` stand between tensors that would
otherwise start elsewhere. Any safetensors reader reads the file.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error

ALIGNMENT = 64
FILL = ".fill."

_NAMES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAME_OF = {np.dtype(dtype): name for name, dtype in _NAMES.items()}


def write(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write `arrays` to `path`.

    Raises:
        Error: an array has a dtype that safetensors lacks.
    """
    header: dict[str, Any] = {}
    chunks: list[NDArray] = []
    end = 0
    for name, array in _filled(arrays):
        dtype = _NAME_OF.get(array.dtype)
        if dtype is None:
            raise Error(f"parameter {name} has dtype {array.dtype}, which cannot be saved")
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
        chunks.append(array)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)


def _filled(arrays: Mapping[str, NDArray]) -> Iterator[tuple[str, NDArray]]:
    for count, (name, array) in enumerate(arrays.items()):
        yield name, array
        gap = -array.nbytes % ALIGNMENT
        if gap:
            yield f"{FILL}{count}", np.zeros(gap, np.uint8)


def offsets(path: Path) -> dict[str, int]:
    """Where each tensor of a file that `write` wrote begins, in bytes from the file's start."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}


def mapped(path: Path) -> dict[str, NDArray]:
    """Map the tensors of a file, read-only, without reading it.

    Raises:
        Error: the file is not what `write` writes.
    """
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (length,) = struct.unpack_from("<Q", data, 0)
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        return {
            name: _view(data, 8 + length, entry)
            for name, entry in header.items()
            if not name.startswith(FILL)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as failure:
        raise Error(f"{path} is not a readable safetensors file; compile the model again") from (
            failure
        )


def _view(data: mmap.mmap, start: int, entry: dict[str, Any]) -> NDArray:
    begin, end = entry["data_offsets"]
    flat = np.frombuffer(data, np.uint8, count=end - begin, offset=start + begin)
    return flat.view(_NAMES[entry["dtype"]]).reshape(entry["shape"])
