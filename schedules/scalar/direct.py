"""Kernels of the layers that are no matrix product: embedding and grouped convolution.

Both compute with the weight's floats, and keep it as `pack_rows` lays it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.ops.weight import Weight
from gq_tvm.schedules.cpu.outliers import RowOutliers
from gq_tvm.schedules.cpu.vector_math import SCALAR_MATH
from gq_tvm.schedules.family import OPAQUE, Product
from gq_tvm.schedules.scalar.rows import index_at, pack_rows, row_bytes

Expr = Any
Buffer = Any

NAME = "direct"  # what the table of layers calls these kernels


def pack(weight: Weight) -> dict[str, NDArray]:
    """Operands: weights u8 [N * row_bytes + 1], table f32 [T, 2^bits], scale and zero [N, J].

    Behind them those of `RowOutliers`.

    Args:
        weight: [N, ...]; the trailing axes form one row. Without zero points there is no ``zero``.
    """
    rows, (scale, zero) = weight.indices.reshape(weight.rows, weight.width), weight.kept()
    operands = {
        "weights": pack_rows(rows, weight.bits),
        "table": weight.codebook.reshape(-1, 2**weight.bits),
        "scale": scale,
        "zero": zero,
    }
    made = {name: np.ascontiguousarray(a) for name, a in operands.items() if a is not None}
    return made | RowOutliers.operands(weight)


class _Operands:
    """The operands of a weight, declared as the next arguments of a kernel."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.tables = product.tables or product.groups
        size = product.n * row_bytes(product.k, product.bits) + 1
        scales = (product.n, product.groups)
        self._weights = T.arg("weights", T.buffer((size,), "uint8"))
        self._table = T.arg("table", T.buffer((self.tables, 2**product.bits), "float32"))
        self._scale = T.arg("scale", T.buffer(scales, product.scale_type))
        self._zero = T.arg("zero", T.buffer(scales, product.zero_type)) if product.zero else None
        self._outliers = RowOutliers(product) if product.outliers else None

    def expand(self, row: Expr, buffer: Buffer, place: Callable[[Expr], list[Expr]]) -> None:
        """Emit a row's weights into the elements ``place(column)`` of a buffer.

        They are to the bit what ``Weight.expand`` says.
        """
        with T.serial(0, self.product.k) as column:
            T.buffer_store(buffer, self._looked_up(row, column), place(column))
        if self._outliers is not None:
            self._outliers.add(row, buffer, place)

    def _looked_up(self, row: Expr, column: Expr) -> Expr:
        """What the index at a place stands for."""
        product = self.product
        group = column // product.group if product.group else 0
        table = row * self.tables // product.n if product.tables else group
        index = index_at(self._weights, row, column, product.k, product.bits)
        found = self._table[table if self.tables > 1 else 0, index]
        if self._zero is not None:
            found = found - SCALAR_MATH.widened(self._zero[row, group], product.zero_type)
        return found * SCALAR_MATH.widened(self._scale[row, group], product.scale_type)


def embedding(product: Product) -> tirx.PrimFunc:
    """The kernel of an embedding [n, k]: ids i64 [m], the operands, y f32 [m, k] (output).

    An id without a row gives a row of NaN: a kernel cannot refuse, and must not crash.
    """
    m = tirx.Var("m", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("direct_embedding")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        ids = T.arg("ids", T.buffer((m,), "int64"))
        weight = _Operands(product)
        y = T.arg("y", T.buffer((m, product.k), "float32"))
        with T.serial(0, m) as i:
            row = T.bind(ids[i])
            with T.If(tirx.all(row >= T.int64(0), row < T.int64(product.n))):
                with T.Then():
                    weight.expand(row, y, lambda j: [i, j])
                with T.Else(), T.serial(0, product.k) as j:
                    T.buffer_store(y, T.float32("nan"), [i, j])
    return builder.get()


def grouped_conv1d(
    product: Product,
    taps: int,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
) -> tirx.PrimFunc:
    """The kernel of a Conv1d in groups, weight [n, k / taps, taps].

    Its arguments: x f32 [B, C, T], the operands, bias f32 [n], y f32 [B, n, T'] (output).
    """
    n, group_channels = product.n, product.k // taps
    channels, group_rows = group_channels * groups, n // groups
    batch, frames, frames_out = (tirx.Var(v, "int64") for v in ("batch", "frames", "frames_out"))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("direct_conv1d")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, channels, frames), "float32"))
        weight = _Operands(product)
        bias = T.arg("bias", T.buffer((n,), "float32"))
        y = T.arg("y", T.buffer((batch, n, frames_out), "float32"))
        kernel = T.alloc_buffer((product.k,), "float32")
        total = T.alloc_buffer((1,), "float32")
        with T.serial(0, batch) as b, T.serial(0, n) as j:
            weight.expand(j, kernel, lambda p: [p])
            with T.serial(0, frames_out) as t:
                T.buffer_store(total, bias[j], [0])
                with T.serial(0, group_channels) as c, T.serial(0, taps) as tap:
                    frame = T.bind(t * stride + tap * dilation - padding)
                    with T.If(tirx.all(frame >= 0, frame < frames)), T.Then():
                        channel = j // group_rows * group_channels + c
                        product_of = kernel[c * taps + tap] * x[b, channel, frame]
                        T.buffer_store(total, total[0] + product_of, [0])
                T.buffer_store(y, SCALAR_MATH.function(activation)(total[0]), [b, j, t])
    return builder.get()
