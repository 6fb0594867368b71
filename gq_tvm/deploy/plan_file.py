"""A plan as a file: a first line, the lines of the plan, a checksum; and what notices accidents."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

FIRST_LINE = "gq-plan 2"


def sealed(lines: Iterable[str]) -> bytes:
    """A plan as its file has it: between a first line with the version and a checksum.

    The checksum is FNV-1a of 64 bits, so that a copy that was cut short or altered is noticed.
    """
    text = "\n".join([FIRST_LINE, *lines, ""]).encode()
    checksum = 0xCBF29CE484222325
    for byte in text:
        checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
    return text + f"checksum {checksum:016x}\n".encode()


def content(kind: str, path: Path) -> str:
    """The line that says what a file of the bundle holds: its size and its CRC-32.

    They are there to notice accidents. SHA-256 would notice no more of them and cost ten times as
    much at each start of a device.
    """
    crc, size = 0, 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return f"{kind} {size} {crc:08x}"
