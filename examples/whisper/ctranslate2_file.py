"""The tensors of a CTranslate2 model file (``model.bin``), versions 5 and 6 of its format.

Little endian throughout: the version u32, the name of the specification, its revision u32; the
number of tensors u32, and of each its name, rank u8, sizes u32, dtype u8, bytes u32 and values; the
number of aliases u32, and of each its name and that of the tensor it stands for. A name is its
length u16, a closing zero byte counted, and its bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error

_VERSIONS = (5, 6)
_DTYPES = ("<f4", "<i1", "<i2", "<i4", "<f2")  # by the number that stands for each


def read(path: Path) -> dict[str, NDArray]:
    """Tensors by name, aliases among them, mapped from the file and read-only.

    Raises:
        Error: the file is missing, cut, or of another format.
    """
    try:
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as failure:
        raise Error(f"{path} cannot be read ({failure}); give a CTranslate2 model.bin") from None
    try:
        return _tensors(_Cursor(data))
    except (IndexError, KeyError, ValueError) as failure:
        raise Error(
            f"{path} is no CTranslate2 model of format {' or '.join(map(str, _VERSIONS))}, or was "
            f"cut ({failure})"
        ) from None


def _tensors(cursor: _Cursor) -> dict[str, NDArray]:
    version = cursor.number("<u4")
    if version not in _VERSIONS:
        raise ValueError(f"format {version}")
    cursor.name()
    cursor.number("<u4")
    tensors = {}
    for _ in range(cursor.number("<u4")):
        name = cursor.name()
        shape = [cursor.number("<u4") for _ in range(cursor.number("u1"))]
        dtype = np.dtype(_DTYPES[cursor.number("u1")])
        tensors[name] = cursor.take(cursor.number("<u4")).view(dtype).reshape(shape)
    for _ in range(cursor.number("<u4")):
        alias = cursor.name()
        tensors[alias] = tensors[cursor.name()]
    return tensors


class _Cursor:
    """A place in a file that moves over what is taken."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> NDArray[np.uint8]:
        taken = self.data[self.at : self.at + count]
        if len(taken) < count:
            raise ValueError(f"it ends {count - len(taken)} bytes early")
        self.at += count
        return taken

    def number(self, dtype: str) -> int:
        return int(self.take(np.dtype(dtype).itemsize).view(dtype)[0])

    def name(self) -> str:
        return self.take(self.number("<u2")).tobytes().rstrip(b"\0").decode("ascii")
