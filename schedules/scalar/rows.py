"""How a weight is packed row by row, n bits an index, and how an index is read.

The least significant bit comes first; each row starts at a byte, and one spare byte at the end lets
every index be read as part of two bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script import tirx as T


def pack_rows(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack u8 [N, K] into u8 [N * row_bytes + 1]."""
    codes = np.unpackbits(indices[..., None], axis=2, count=bits, bitorder="little")
    packed = np.packbits(codes.reshape(len(indices), -1), axis=1, bitorder="little")
    return np.append(packed.reshape(-1), np.uint8(0))


def unpack_rows(packed: NDArray[np.uint8], n: int, k: int, bits: int) -> NDArray[np.uint8]:
    """Return the u8 [N, K] that `pack_rows` packed."""
    rows = packed[:-1].reshape(n, row_bytes(k, bits))
    codes = np.unpackbits(rows, axis=1, count=k * bits, bitorder="little")
    return np.packbits(codes.reshape(n, k, bits), axis=2, bitorder="little")[..., 0]


def row_bytes(k: int, bits: int) -> int:
    """Bytes of a packed row of `k` indices."""
    return -(-k * bits // 8)


def index_at(weights: Any, row: Any, column: Any, k: int, bits: int) -> tirx.PrimExpr:
    """The index at [row, column] of a weight packed by `pack_rows`, as an i32 expression."""
    bit = column * bits
    byte = row * row_bytes(k, bits) + bit // 8
    pair = T.Cast("int32", weights[byte]) | (T.Cast("int32", weights[byte + 1]) << 8)
    return (pair >> T.Cast("int32", bit % 8)) & (2**bits - 1)
