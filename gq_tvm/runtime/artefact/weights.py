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
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gq_tvm import records
from gq_tvm.errors import Error
from gq_tvm.records import Wrong

ALIGNMENT = 64
FILL = ".fill."
_METADATA = "__metadata__"

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
#: What NumPy and TVM call them.
DTYPES = frozenset(map(str, _NAME_OF))


def write(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write `arrays` to `path`.

    Raises:
        Error: an array has a dtype that safetensors lacks, or a name that the file needs itself.
    """
    header, chunks = _header(arrays)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).data)


def offsets(arrays: Mapping[str, NDArray]) -> dict[str, int]:
    """Where each of `arrays` begins in the file that `write` writes: bytes from its start.

    Raises:
        Error: see `write`.
    """
    header, chunks = _header(arrays)
    at, found = 8 + len(header), {}
    for (name, _), chunk in zip(_filled(arrays), chunks, strict=True):
        found[name] = at
        at += chunk.nbytes
    return found


def _header(arrays: Mapping[str, NDArray]) -> tuple[bytes, list[NDArray]]:
    """The header of a file, padded, and what stands behind it."""
    for name in arrays:
        if name.startswith(FILL) or name == _METADATA:
            raise Error(f"the file of weights needs the name {name}; give the parameter another")
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
    return text + b" " * (-(8 + len(text)) % ALIGNMENT), chunks


def _filled(arrays: Mapping[str, NDArray]) -> Iterator[tuple[str, NDArray]]:
    for count, (name, array) in enumerate(arrays.items()):
        yield name, array
        gap = -array.nbytes % ALIGNMENT
        if gap:
            yield f"{FILL}{count}", np.zeros(gap, np.uint8)


def mapped(path: Path) -> dict[str, NDArray]:
    """Map the tensors of a file, read-only, without reading it.

    Raises:
        Error: the file is not what `write` writes.
    """
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start, entries = _entries(data)
    except (OSError, ValueError) as failure:
        raise Error(
            f"{path} is not a readable safetensors file ({failure}); compile the model again"
        ) from failure
    return {
        name: _view(data, start, entry)
        for name, entry in entries.items()
        if not name.startswith(FILL)
    }


@dataclass
class _Entry:
    """What the header says of a tensor; offsets count from the header's end."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def _entries(data: mmap.mmap) -> tuple[int, dict[str, _Entry]]:
    """Where the tensors' bytes start, and the header; ValueError where it is not as `write` has it.

    Every byte behind the header belongs to one tensor, each begins at a multiple of `ALIGNMENT`.
    """
    if len(data) < 8:
        raise Wrong("it has no header")
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data) or start % ALIGNMENT:
        raise Wrong("the length of its header is wrong")
    header = records.loads(data[8:start])
    if isinstance(header, dict):
        records.read(dict[str, str], header.pop(_METADATA, {}), _METADATA)
    entries: dict[str, _Entry] = records.read(dict[str, _Entry], header, "its header")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda one: one[1].data_offsets):
        if entry.dtype not in _NAMES:
            raise Wrong(f"{name} has the dtype {entry.dtype}, which is unknown")
        if min(entry.shape, default=0) < 0 or len(entry.shape) > 64:
            raise Wrong(f"{name} has no shape that can be")
        size = prod(entry.shape) * np.dtype(_NAMES[entry.dtype]).itemsize
        if entry.data_offsets != [end, end + size]:
            raise Wrong(f"{name} does not lie behind the tensor before it, {size} bytes long")
        if end % ALIGNMENT and not name.startswith(FILL):
            raise Wrong(f"{name} does not begin at a multiple of {ALIGNMENT} bytes")
        end += size
    if start + end != len(data):
        raise Wrong("its size is not that of its tensors")
    return start, entries


def _view(data: mmap.mmap, start: int, entry: _Entry) -> NDArray:
    begin, end = entry.data_offsets
    flat = np.frombuffer(data, np.uint8, count=end - begin, offset=start + begin)
    return flat.view(_NAMES[entry.dtype]).reshape(entry.shape)
