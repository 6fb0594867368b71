"""What a WAV file's header says, or fails to say, and libsndfile passes over."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_UNKNOWN = 0xFFFFFFFF  # the size that recorders write who do not know it yet
_HEAD = 1 << 16  # bytes in which the chunks before the samples are looked for
_G721_BLOCK = 120  # samples; its header has none


def unfinished(file: BinaryIO) -> BinaryIO | None:
    """A WAV file whose recorder was killed before it could write the size, with all its samples.

    None for any other: also where nothing follows the size of 0, or other chunks do.
    """
    file.seek(0)
    content = bytearray(file.read())
    if not _is_wav(content):
        return None
    for at, name, size in _chunks(content, 12):
        if name == b"data" and size in (0, _UNKNOWN):
            ends = [at + 8, *(at + 8 + size + size % 2 for at, _, size in _chunks(content, at + 8))]
            if ends[-1] in (len(content), len(content) + 1):
                return None
            content[:4] = b"RIFF"  # in RF64 the size would stand elsewhere
            content[at + 4 : at + 8] = struct.pack("<I", _UNKNOWN)
            return io.BytesIO(content)
    return None


def length(file: BinaryIO, frames: int) -> int:
    """Samples a channel without the padding at the end, of `frames` with it.

    ADPCM and GSM are stored in whole blocks; the ``fact`` chunk has the true length (Microsoft,
    "Multimedia Data Standards Update", 1994). It is taken where it ends inside the last two blocks,
    as libsndfile takes the byte that makes a chunk even for one more.
    """
    if isinstance(file, io.BytesIO):
        head = bytearray(file.getbuffer()[:_HEAD])
    else:  # not by `seek`: the position is libsndfile's
        head = bytearray(os.pread(file.fileno(), _HEAD, 0))
    if not _is_wav(head):
        return frames
    block, told = _G721_BLOCK, frames
    for at, name, size in _chunks(head, 12):
        if name == b"fmt " and size >= 20:
            block = struct.unpack_from("<H", head.ljust(at + 28), at + 26)[0] or block
        elif name == b"fact" and size >= 4:
            (told,) = struct.unpack_from("<I", head.ljust(at + 12), at + 8)
    return told if told > 0 and 0 <= frames - told < 2 * block else frames


def _is_wav(content: bytearray) -> bool:
    return content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE"


def _chunks(content: bytearray, at: int) -> Iterator[tuple[int, bytes, int]]:
    """Offsets, names and sizes of chunks, as far as there are names."""
    while len(head := content[at : at + 8]) == 8 and all(32 <= letter < 127 for letter in head[:4]):
        name, size = struct.unpack("<4sI", head)
        yield at, name, size
        at += 8 + size + size % 2
