"""Which machine a file of code is for, by its ELF header (System V ABI, elf.h)."""

from __future__ import annotations

import os
import struct

#: e_machine by the architecture part of a target triple.
MACHINES = {"x86_64": 62, "aarch64": 183, "armhf": 40}


def machine(path: str | os.PathLike[str]) -> str | None:
    """Return the architecture an ELF file is for, or None if it is not one of ours or no ELF."""
    with open(path, "rb") as file:
        header = file.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    (number,) = struct.unpack_from("<H" if header[5] == 1 else ">H", header, 18)
    return next((name for name, value in MACHINES.items() if value == number), None)
