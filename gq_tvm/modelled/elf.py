"""Where functions are in ELF files, 32 or 64 bits, little-endian (System V ABI, chapters 4, 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from gq_tvm.errors import Error

_LOAD, _EXECUTABLE = 1, 1  # p_type PT_LOAD, p_flags PF_X
_TABLES = (2, 11)  # sh_type SHT_SYMTAB, SHT_DYNSYM
_FUNCTION = 2  # STT_FUNC


@dataclass(frozen=True)
class Range:
    """Bytes of a file, from the offset `start` to below `stop`."""

    start: int
    stop: int


class Elf:
    """A file's code and functions."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises `Error` if it is no such file."""
        self.data = path.read_bytes()
        self.path = path
        if self.data[:4] != b"\x7fELF" or self.data[5] != 1:
            raise Error(f"{path} is no little-endian ELF file")
        self._wide = self.data[4] == 2
        try:
            self._segments = self._read_segments()
            self._functions = self._read_functions()
        except (struct.error, ValueError, IndexError) as damage:
            raise Error(f"{path} is a damaged ELF file") from damage

    @property
    def code(self) -> list[Range]:
        """All that can be executed."""
        return [one for _, one, flags in self._segments if flags & _EXECUTABLE]

    def function(self, name: str) -> Range:
        """Where a function is. Raises `Error` if there is none of that name."""
        if name not in self._functions:
            raise Error(f"{self.path} has no function {name}")
        address, size = self._functions[name]
        for base, where, _ in self._segments:
            if base <= address < base + where.stop - where.start:
                start = address - base + where.start
                return Range(start, start + size)
        raise Error(f"the function {name} is not in the file {self.path}")

    def _read_segments(self) -> list[tuple[int, Range, int]]:
        """Address, place in the file and flags of each segment that is mapped."""
        (at,) = struct.unpack_from(
            "<Q" if self._wide else "<I", self.data, 32 if self._wide else 28
        )
        size, count = struct.unpack_from("<2H", self.data, 54 if self._wide else 42)
        found = []
        for i in range(count):
            fields = struct.unpack_from("<2I6Q" if self._wide else "<8I", self.data, at + i * size)
            if self._wide:
                kind, flags, offset, address, _, length, *_ = fields
            else:
                kind, offset, address, _, length, _, flags, _ = fields
            if kind == _LOAD:
                found.append((address, Range(offset, offset + length), flags))
        return found

    def _read_functions(self) -> dict[str, tuple[int, int]]:
        """Address and bytes of each function by its name."""
        (at,) = struct.unpack_from(
            "<Q" if self._wide else "<I", self.data, 40 if self._wide else 32
        )
        size, count = struct.unpack_from("<2H", self.data, 58 if self._wide else 46)
        layout = "<2I4Q2I2Q" if self._wide else "<10I"
        sections = [struct.unpack_from(layout, self.data, at + i * size) for i in range(count)]
        found = {}
        for _, kind, _, _, offset, length, link, _, _, each in sections:
            if kind not in _TABLES:
                continue
            _, _, _, _, names, _, *_ = sections[link]
            for start in range(offset, offset + length, each):
                name, address, extent, about = self._symbol(start)
                if about & 15 == _FUNCTION and address:
                    stop = self.data.index(b"\0", names + name)
                    found[self.data[names + name : stop].decode()] = (address, extent)
        return found

    def _symbol(self, at: int) -> tuple[int, int, int, int]:
        """Name, address, size and st_info of a symbol."""
        if self._wide:
            name, about, _, _, address, size = struct.unpack_from("<IBBHQQ", self.data, at)
        else:
            name, address, size, about, _, _ = struct.unpack_from("<3IBBH", self.data, at)
        return name, address, size, about
