"""Whether the counts and lengths in the header of a GGUF file fit into the file.

The ``gguf`` package believes them: it goes through an array of any length that a file tells, past
the end of the file. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type
_TEXT, _ARRAY = 8, 9
_MOST_AXES = 4
_DEEPEST = 4  # arrays within one another
_LEAST_PAIR, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8  # bytes


def check(path: Path) -> None:
    """Go through the header of a file.

    Raises:
        ValueError: something in it is of another kind, or lies behind the end of the file.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Header(data).check()


class _Header:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4  # behind the magic number
        self._order = "<"

    def check(self) -> None:
        """All of it."""
        if not self._number("I") & 0xFFFF:  # the version, of a machine of the other byte order
            self._order = ">"
        tensors, pairs = self._number("Q"), self._number("Q")
        self._room(tensors, _LEAST_TENSOR)
        self._room(pairs, _LEAST_PAIR)
        for _ in range(pairs):
            self._text()
            self._value(self._number("I"), 0)
        for _ in range(tensors):
            self._text()
            axes = self._number("I")
            if axes > _MOST_AXES:
                raise ValueError(f"a tensor has {axes} axes")
            self._skip(axes, 8)
            self._skip(1, 4 + 8)

    def _value(self, kind: int, depth: int) -> None:
        if kind in _WIDTHS:
            self._skip(1, _WIDTHS[kind])
        elif kind == _TEXT:
            self._text()
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self._number("I"), self._number("Q")
            if inner in _WIDTHS:
                self._skip(count, _WIDTHS[inner])
                return
            self._room(count, 8)
            for _ in range(count):
                self._value(inner, depth + 1)
        else:
            raise ValueError(f"a value is of the type {kind}")

    def _text(self) -> None:
        self._skip(self._number("Q"), 1)

    def _number(self, form: str) -> int:
        at = self._at
        self._skip(1, struct.calcsize(form))
        (number,) = struct.unpack_from(f"{self._order}{form}", self._data, at)
        return int(number)

    def _skip(self, count: int, width: int) -> None:
        self._room(count, width)
        self._at += count * width

    def _room(self, count: int, width: int) -> None:
        if count * width > len(self._data) - self._at:
            raise ValueError(f"{count:,} values lie behind its end")
