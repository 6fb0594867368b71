"""The arithmetic of the scalar kernels: a row brought in, and its product with a packed row."""

# mypy: disable-error-code="valid-type"
# (TVMScript reads annotations as values.)

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script import tirx as T

from gq_tvm.ops.rounding import INT2_STEP, MEAN_STEPS, SMALLEST_LIVE
from gq_tvm.schedules.family import Product

_SMALLEST_LIVE = float(SMALLEST_LIVE)
_FLOAT_MAX = float(np.finfo(np.float32).max)


def row_bytes(k: int, bits: int) -> int:
    """Bytes of a packed row of `k` indices."""
    return -(-k * bits // 8)


def index_at(weights: Any, row: Any, column: Any, k: int, bits: int) -> tirx.PrimExpr:
    """The index at [row, column] of a weight packed by `pack_rows`, as an i32 expression."""
    bit = column * bits
    byte = row * row_bytes(k, bits) + bit // 8
    pair = T.Cast("int32", weights[byte]) | (T.Cast("int32", weights[byte + 1]) << 8)
    return (pair >> T.Cast("int32", bit % 8)) & (2**bits - 1)


def dtypes(product: Product) -> tuple[str, str]:
    """The dtypes of a row's elements and of their sum."""
    return ("float32", "float32") if product.activation == "fp32" else ("int8", "int32")


def load_row_of(product: Product) -> Any:
    """Macro: row i of a matrix, as the product's elements, and its scale."""
    k = product.k

    @T.macro
    def find_largest(x, i, largest, finite):
        largest[0] = T.float32(0)
        finite[0] = True
        for p in range(k):
            largest[0] = T.max(largest[0], T.abs(x[i, p]))
            finite[0] = finite[0] and T.abs(x[i, p]) <= T.float32(_FLOAT_MAX)

    @T.macro
    def as_int8(x, i, row, row_scale):
        largest = T.sblock_alloc_buffer((1,), "float32")
        finite = T.sblock_alloc_buffer((1,), "bool")
        find_largest(x, i, largest, finite)
        if finite[0] and largest[0] >= T.float32(_SMALLEST_LIVE):
            row_scale[0] = largest[0] / T.float32(127)
            largest[0] = T.float32(127) / largest[0]
            for p in range(k):
                row[p] = T.Cast("int8", T.nearbyint(x[i, p] * largest[0]))
        else:
            row_scale[0] = T.if_then_else(finite[0], T.float32(0), T.float32("nan"))
            for p in range(k):
                row[p] = T.int8(0)

    step, outer = (INT2_STEP, 3) if product.activation == "int2" else (1.0, 1)

    @T.macro
    def as_few_bits(x, i, row, row_scale):
        largest = T.sblock_alloc_buffer((1,), "float32")
        finite = T.sblock_alloc_buffer((1,), "bool")
        total = T.sblock_alloc_buffer((1,), "int32")
        find_largest(x, i, largest, finite)
        if finite[0] and largest[0] >= T.float32(_SMALLEST_LIVE):
            total[0] = 0
            for p in range(k):
                total[0] = total[0] + T.Cast(
                    "int32", T.nearbyint(T.abs(x[i, p]) * (T.float32(MEAN_STEPS) / largest[0]))
                )
            row_scale[0] = (
                (largest[0] / T.float32(MEAN_STEPS))
                * (T.Cast("float32", total[0]) / T.float32(k))
                * T.float32(step)
            )
        else:
            row_scale[0] = T.if_then_else(finite[0], T.float32(0), T.float32("nan"))
        for p in range(k):
            row[p] = T.if_then_else(x[i, p] < T.float32(0), T.int8(-1), T.int8(1)) * (
                T.if_then_else(
                    T.abs(x[i, p]) > row_scale[0] + row_scale[0], T.int8(outer), T.int8(1)
                )
            )

    @T.macro
    def as_float(x, i, row, row_scale):
        row_scale[0] = T.float32(1)
        for p in range(k):
            row[p] = x[i, p]

    return {"int8": as_int8, "fp32": as_float}.get(product.activation, as_few_bits)


def dot_with(product: Product) -> Any:
    """Macro: the sum over a row of activations times row j of the weight."""
    k, bits = product.k, product.bits
    accumulator = dtypes(product)[1]

    @T.macro
    def dot(row, weights, table, j, total):
        total[0] = T.Cast(accumulator, 0)
        for p in range(k):
            total[0] = total[0] + T.Cast(accumulator, row[p]) * T.Cast(
                accumulator, table[index_at(weights, j, p, k, bits)]
            )

    return dot


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
