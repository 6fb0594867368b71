"""Indices of n bits one after the other, the lowest bit first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]

_AT_ONCE = 2**20  # indices; a multiple of 8


def packed(indices: U8, bits: int) -> U8:
    """Pack indices.

    Args:
        indices: u8 [M], values below 2^bits.
        bits: 1 to 8.

    Returns:
        u8 [ceil(M bits / 8)]; the last byte is filled up with zeros.
    """
    parts = [
        np.packbits(
            np.unpackbits(indices[at : at + _AT_ONCE, None], axis=1, bitorder="little")[:, :bits],
            bitorder="little",
        )
        for at in range(0, len(indices), _AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def unpacked(stream: U8, count: int, bits: int) -> U8:
    """The first indices that were packed, u8 [count].

    Raises:
        ValueError: there are too few bytes.
    """
    if 8 * len(stream) < count * bits:
        raise ValueError(f"{len(stream)} bytes hold no {count} indices of {bits} bits")
    indices = np.empty(count, np.uint8)
    for at in range(0, count, _AT_ONCE):
        part = indices[at : at + _AT_ONCE]
        first = at * bits // 8
        size = len(part) * bits
        used = np.unpackbits(stream[first:][: -(-size // 8)], count=size, bitorder="little")
        part[:] = np.packbits(used.reshape(-1, bits), axis=1, bitorder="little")[:, 0]
    return indices
