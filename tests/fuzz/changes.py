"""Changes to what formats have in common: numbers, texts, bytes, JSON, lines, zip archives."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Change = Callable[[bytes, Random], bytes]

_POWERS = (7, 8, 15, 16, 24, 31, 32, 40, 48, 53, 62, 63, 64)
NUMBERS = (0, 1, -1, 2, 3, 5, 100, *(2**n for n in _POWERS), *(2**n - 1 for n in _POWERS), -(2**63))
TEXTS = (
    *("", " ", "-", "0", "a", "x" * 300, "é", "\0", "\u2028", "\ud800", "../x", "/dev/zero"),
    *("weight", "F4", "float8", "nan", "1e999", "__init__", "%", "a.b.c", "[" * 200),
)
OTHERS: tuple[Any, ...] = (None, True, 0.5, 1e308, "", "0", [], [[]], {}, {"a": 1}, [0], -1, 2**70)
_MOST = 1 << 14  # bytes that are put in


def number(value: int, chance: Random) -> int:
    """Another number: one next to it, or one at which something ends."""
    near = (value + 1, value - 1, -value, 2 * value, value // 2, value ^ 1 << chance.randrange(16))
    return chance.choice(near if chance.random() < 0.4 else NUMBERS)


def text(value: str, chance: Random) -> str:
    """Another text."""
    at = chance.randrange(len(value) + 1)
    near = (value[:at], value[at:], value + value, f"{value[:at]}0{value[at:]}", f"{value}_")
    return chance.choice(near if chance.random() < 0.4 else TEXTS)


def damaged(data: bytes, chance: Random) -> bytes:
    """Bytes changed, put in, left out or cut off, wherever."""
    at = chance.randrange(len(data) + 1)
    few = chance.choice((1, 2, 4, 8, chance.randrange(1, 64)))
    match chance.randrange(7):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at + few :]
        case 2:
            return data[:at] + chance.randbytes(few) + data[at:]
        case 3:
            return data[:at] + data[at : at + few] * chance.randrange(2, 9) + data[at + few :]
        case 4:
            return data[:at] + chance.randbytes(few) + data[at + few :]
        case 5:
            other = chance.randrange(len(data) + 1)
            return data[:at] + data[other : other + few] + data[at + few :]
        case _:
            return written(data, [(at, chance.choice((1, 2, 4, 8)))], chance)


def written(data: bytes, fields: Sequence[tuple[int, int]], chance: Random) -> bytes:
    """One of the fields, little endian numbers at an offset and of a width, is another."""
    if not fields:
        return damaged(data, chance)
    at, width = chance.choice(fields)
    value = int.from_bytes(data[at : at + width], "little")
    new = (number(value, chance) % 256**width).to_bytes(width, "little")
    return data[:at] + new + data[at + width :]


def in_json(data: bytes, chance: Random) -> bytes:
    """JSON of which one value is another, is left out or stands there twice."""
    try:
        tree = json.loads(data)
    except ValueError:
        return damaged(data, chance)
    return json.dumps(in_tree(tree, chance)).encode()


def in_tree(tree: Any, chance: Random) -> Any:
    """The same of what JSON is read as; it is changed in place where it can be."""
    places: list[tuple[Any, Any]] = []
    waiting = [tree] if isinstance(tree, dict | list) else []
    while waiting:
        one = waiting.pop()
        keys = one.items() if isinstance(one, dict) else enumerate(one)
        for key, value in keys:
            places.append((one, key))
            if isinstance(value, dict | list) and value:
                waiting.append(value)
    if not places:
        return chance.choice(OTHERS)
    holder, key = chance.choice(places)
    value = holder[key]
    match chance.randrange(8):
        case 0:
            del holder[key]
        case 1:
            holder[key] = chance.choice(OTHERS)
        case 2:
            other, its = chance.choice(places)
            if its in other if isinstance(other, dict) else its < len(other):
                holder[key] = json.loads(json.dumps(other[its]))
        case 3 if isinstance(holder, list):
            holder.insert(key, value)
        case 3:
            holder[text(key, chance)] = value
        case _:
            holder[key] = scalar(value, chance)
    return tree


def scalar(value: Any, chance: Random) -> Any:
    """A number for a number and a text for a text; of anything else something else."""
    if isinstance(value, str):
        return text(value, chance)
    if isinstance(value, int) and not isinstance(value, bool):
        return number(value, chance)
    return chance.choice(OTHERS)


def in_lines(data: bytes, chance: Random) -> bytes:
    """A text of lines of words, of which a line or a word is another."""
    lines = data.decode("utf-8", "replace").split("\n")
    at = chance.randrange(len(lines))
    words = lines[at].split(" ")
    match chance.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(chance.randrange(len(lines)), lines[at])
        case 2:
            del words[chance.randrange(len(words))]
            lines[at] = " ".join(words)
        case 3:
            other = chance.choice(lines).split(" ")
            words[chance.randrange(len(words))] = chance.choice(other)
            lines[at] = " ".join(words)
        case _:
            place = chance.randrange(len(words))
            word = words[place]
            digits = word.lstrip("-r=>")
            if digits.isdigit() and chance.random() < 0.8:
                kept = word[: len(word) - len(digits)]
                words[place] = f"{kept}{number(int(digits), chance)}"
            else:
                words[place] = text(word, chance)
            lines[at] = " ".join(words)
    return "\n".join(lines).encode("utf-8", "replace")


def in_zip(inner: Callable[[str], Change], compressed: bool = False) -> Change:
    """An archive of which a member changes, as ``inner`` says by its name, or its directory."""

    def change(data: bytes, chance: Random) -> bytes:
        if chance.random() < 0.2:
            return written(data, zip_fields(data), chance)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(one.filename, archive.read(one)) for one in archive.infolist()]
        except Exception:  # damaged by the change before
            return damaged(data, chance)
        if not members:
            return damaged(data, chance)
        at = chance.randrange(len(members))
        name, content = members[at]
        match chance.randrange(12):
            case 0:
                del members[at]
            case 1:
                members[at] = text(name, chance).replace("\0", "_") or "_", content
            case 2:
                members[at] = name, chance.choice(members)[1]
            case _:
                members[at] = name, inner(name)(content, chance)
        made = io.BytesIO()
        kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(made, "w", kind) as archive:
            for name, content in members:
                archive.writestr(name.encode("utf-8", "replace").decode(), content)
        return made.getvalue()

    return change


# PKWARE, APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16: offsets and widths within a record.
_RECORDS = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": (
        *((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4)),
        *((28, 2), (30, 2), (32, 2), (42, 4)),
    ),
    b"PK\x05\x06": ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}


def zip_fields(data: bytes) -> list[tuple[int, int]]:
    """The numbers in the records of an archive."""
    found = []
    for mark, fields in _RECORDS.items():
        at = data.find(mark)
        while at >= 0:
            found += [(at + offset, width) for offset, width in fields]
            at = data.find(mark, at + 4)
    return found


def in_header(data: bytes, chance: Random) -> bytes:
    """A safetensors file: its header changes, and the length of it with it, or that alone."""
    if len(data) < 8 or chance.random() < 0.1:
        return written(data, [(0, 8)], chance)
    (length,) = struct.unpack_from("<Q", data)
    header = in_json(data[8 : 8 + length], chance)
    header += b" " * (-(8 + len(header)) % 64)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def any_of(*changes: Change) -> Change:
    """One to three changes of these kinds, now and then bytes alone."""

    def change(data: bytes, chance: Random) -> bytes:
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            one = damaged if chance.random() < 0.1 else chance.choice(changes)
            try:
                data = one(data, chance)
            except Exception:  # what the change before has left is no such file
                data = damaged(data, chance)
        return data

    return change
