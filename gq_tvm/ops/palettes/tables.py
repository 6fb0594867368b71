"""Floats as indices into the table of what they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops.weight import Weight

F32 = NDArray[np.float32]

_MOST = 256  # centroids: an index is a byte
_FIRST = 2**12  # values that show at once that there are too many
_CHUNK = 2**16


def one_table(flat: F32) -> Weight | None:
    """A weight [N, K] of at most 256 values, or None."""
    table = distinct(flat)
    if table is None:
        return None
    bits = max(1, (len(table) - 1).bit_length())
    padded = np.pad(table, (0, 2**bits - len(table)))[None]
    return Weight(codes_in(flat, table), padded, np.ones(1, np.float32))


def distinct(values: F32) -> F32 | None:
    """The values that an array holds, rising; None if they are more than 256 or not all finite."""
    flat = values.reshape(-1)
    spread = flat[:: max(1, len(flat) // _FIRST)]
    table = np.unique(spread)
    if len(table) > _MOST or not np.isfinite(table).all():
        return None
    for first in range(0, len(flat), _CHUNK):
        part = flat[first : first + _CHUNK]
        new = part[table[_nearest_above(part, table)] != part]
        if len(new):
            table = np.union1d(table, new)
            if len(table) > _MOST or not np.isfinite(table).all():
                return None
    return table + np.float32(0)  # one zero


def codes_in(values: F32, table: F32) -> NDArray[np.uint8]:
    """The places of values in a table that rises and holds them."""
    flat, codes = values.reshape(-1), np.empty(values.size, np.uint8)
    for first in range(0, len(flat), _CHUNK):
        codes[first : first + _CHUNK] = _nearest_above(flat[first : first + _CHUNK], table)
    return codes.reshape(values.shape)


def _nearest_above(values: F32, table: F32) -> NDArray[np.int64]:
    """The places where the values would stand, within the table."""
    return np.minimum(np.searchsorted(table, values), len(table) - 1)
