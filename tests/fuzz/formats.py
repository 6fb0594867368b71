"""Changes to single formats: ONNX, GGUF, WAV, NumPy's arrays, plans, PyTorch's archives."""

from __future__ import annotations

import struct
import zlib
from random import Random
from typing import Any

from google.protobuf.message import DecodeError, Message
from onnx import ModelProto

from fuzz.changes import (
    Change,
    damaged,
    in_json,
    in_lines,
    in_zip,
    number,
    scalar,
    written,
)

_MOST_MESSAGES = 4000


def in_onnx(data: bytes, chance: Random) -> bytes:
    """A model of which a field of a message is another."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return damaged(data, chance)
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [model]
    while waiting and len(places) < _MOST_MESSAGES:
        one = waiting.pop()
        for field, value in one.ListFields():
            places.append((one, field))
            if field.type == field.TYPE_MESSAGE:
                waiting += value if _is_list(value) else [value]
    holder, field = chance.choice(places)
    _change(holder, field, [held for held, its in places if its is field], chance)
    return model.SerializeToString()


def _is_list(value: Any) -> bool:
    return not isinstance(value, Message | str | bytes | int | float)


def _change(holder: Any, field: Any, alike: list[Any], chance: Random) -> None:
    """Change a field of a message; ``alike`` are messages that have it."""
    value = getattr(holder, field.name)
    other = getattr(chance.choice(alike), field.name)
    if _is_list(value):
        _change_list(value, field, list(other), chance)
    elif chance.random() < 0.15:
        holder.ClearField(field.name)
    elif isinstance(value, Message):
        value.CopyFrom(_copied(other))
    else:
        taken = other if chance.random() < 0.3 else _scalar(field, value, chance)
        try:
            setattr(holder, field.name, taken)
        except (ValueError, TypeError):  # it has no such values
            holder.ClearField(field.name)


def _change_list(value: Any, field: Any, other: list[Any], chance: Random) -> None:
    at = chance.randrange(len(value))
    match chance.randrange(5):
        case 0:
            del value[at]
        case 1:
            value.extend([_copied(value[at])])
        case 2:
            part = other[: chance.randrange(len(other) + 1)]
            if part and isinstance(part[0], Message):
                part = list(map(_copied, part))
            del value[:]
            value.extend(part)
        case _ if isinstance(value[at], Message):
            value[at].CopyFrom(_copied(chance.choice(other)))
        case _:
            try:
                value[at] = _scalar(field, value[at], chance)
            except (ValueError, TypeError):
                del value[at]


def _copied(value: Any) -> Any:
    """A copy: a message may lie within the one that it is to replace."""
    if isinstance(value, Message):
        return type(value).FromString(value.SerializeToString())
    return value


def _scalar(field: Any, value: Any, chance: Random) -> Any:
    if isinstance(value, bytes):
        return damaged(value, chance)
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, 0.5, 1e30, float("inf"), float("nan"), 1e-40))
    if field.type == field.TYPE_ENUM:
        return chance.randrange(30)
    return scalar(value, chance)


def in_gguf(data: bytes, chance: Random) -> bytes:
    """A GGUF file of which a number of its header is another."""
    return written(data, _gguf_fields(data), chance)


def _gguf_fields(data: bytes) -> list[tuple[int, int]]:
    """https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "File Structure"."""
    fields = [(4, 4), (8, 8), (16, 8)]
    widths = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    at = 24

    def read(width: int) -> int:
        nonlocal at
        fields.append((at, width))
        at += width
        if at > len(data):
            raise ValueError
        return int.from_bytes(data[at - width : at], "little")

    def value(kind: int) -> None:
        nonlocal at
        if kind in widths:
            read(widths[kind])
        elif kind == 8:
            at += read(8)
        elif kind == 9:
            inner, count = read(4), read(8)
            for _ in range(min(count, 100)):
                value(inner)

    try:
        tensors, pairs = struct.unpack_from("<QQ", data, 8)
        for _ in range(min(pairs, 100)):
            at += read(8)
            value(read(4))
        for _ in range(min(tensors, 100)):
            at += read(8)
            for _ in range(min(read(4), 8)):
                read(8)
            read(4)
            read(8)
    except (ValueError, struct.error):
        pass
    return fields


def in_wav(data: bytes, chance: Random) -> bytes:
    """A recording of which a chunk's size, name or number of its format is another."""
    fields, at = [(0, 4), (4, 4)], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        fields += [(at, 4), (at + 4, 4)]
        if data[at : at + 4] in (b"fmt ", b"fact", b"ds64"):
            fields += [(at + 8 + n, 2) for n in range(0, min(size, 40), 2)]
            fields += [(at + 8 + n, 4) for n in range(0, min(size, 40), 4)]
        at += 8 + size + size % 2
    return written(data, fields, chance)


def in_npy(data: bytes, chance: Random) -> bytes:
    """An array whose header says something else."""
    if len(data) < 12 or chance.random() < 0.15:
        return written(data, [(6, 1), (7, 1), (8, 2)], chance)
    end = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:end].decode("latin-1")
    digits = [at for at, one in enumerate(header) if one.isdigit()]
    if digits and chance.random() < 0.7:
        at = chance.choice(digits)
        header = f"{header[:at]}{number(int(header[at]), chance)}{header[at + 1 :]}"
    else:
        for word in ("float32", "<f4", "<i8", "False", "fortran_order", "shape", "(", ")"):
            if word in header and chance.random() < 0.3:
                new = chance.choice(("|O", "<f8", "|S9", "<M8[s]", "True", "", "|V0", "((", "1e9"))
                header = header.replace(word, new, 1)
    made = header.encode("latin-1", "replace")
    return data[:8] + struct.pack("<H", len(made) % 65536) + made + data[end:]


def in_plan(data: bytes, chance: Random) -> bytes:
    """A plan that says something else, and its checksum right."""
    end = data.rfind(b"checksum ")
    body = (damaged if chance.random() < 0.1 else in_lines)(data[:end], chance)
    return body + f"checksum {zlib.crc32(body):08x}\n".encode()


def in_pt2() -> Change:
    """An exported program: its tables, its tensors, its sample inputs."""
    pickled = in_zip(lambda name: damaged)

    def inner(name: str) -> Change:
        if name.endswith(".json"):
            return in_json
        if name.endswith(".pt"):
            return pickled
        return damaged

    return in_zip(inner)
