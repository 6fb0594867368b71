"""Indices of n bits each, packed, and how nodes unpack them.

Eight indices are n bytes, index i the bits from i n on, the lowest first; the last eight are filled
up with zeros. So n bits a weight hold for every n from 1 to 8.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from gq_tvm.onnx_functions.body import INT32, UINT32, Body
from gq_tvm.ops import bit_stream

U8 = NDArray[np.uint8]


def pack(indices: U8, bits: int) -> U8:
    """Pack indices.

    Args:
        indices: u8, any shape, values below 2^bits.
        bits: 1 to 8.

    Returns:
        u8 [n ceil(size / 8)].
    """
    return bit_stream.packed(np.pad(indices.reshape(-1), (0, -indices.size % 8)), bits)


def unpack(packed: U8, bits: int, shape: tuple[int, ...]) -> U8:
    """What was packed, in its shape.

    Raises:
        ValueError: there are too few bytes.
    """
    return bit_stream.unpacked(packed, prod(shape), bits).reshape(shape)


def unpacked(body: Body, packed: str, bits: int, rows: int, width: int) -> str:
    """The indices as i32 [rows, width]."""
    if bits in (1, 2, 4):
        shifts = body.constant(np.arange(0, 8, bits), np.uint8)
        words = body("Unsqueeze", packed, body.sizes(1))
        codes = body("BitShift", words, shifts, direction="RIGHT")
        codes = body("BitwiseAnd", codes, body.constant([2**bits - 1], np.uint8))
    elif bits < 8:
        byte, bit = np.divmod(np.arange(8) * bits, 8)
        words = body.reshape(packed, -1, bits)
        low, high = (
            body.cast(body("Gather", words, body.sizes(*at), axis=1), UINT32)
            for at in (byte.tolist(), np.minimum(byte + 1, bits - 1).tolist())
        )
        high = body("BitShift", high, body.constant([8], np.uint32), direction="LEFT")
        codes = body("BitwiseOr", low, high)
        codes = body("BitShift", codes, body.constant(bit, np.uint32), direction="RIGHT")
        codes = body("BitwiseAnd", codes, body.constant([2**bits - 1], np.uint32))
    else:
        codes = packed
    flat = body.reshape(codes, -1)
    if bits < 8 or rows * width % 8:
        flat = body("Slice", flat, body.sizes(0), body.sizes(rows * width))
    return body.reshape(body.cast(flat, INT32), rows, width)
