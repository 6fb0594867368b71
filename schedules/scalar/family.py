"""The family without vector instructions: runs on any LLVM target, and checks the vector kernels.

Weights are packed row by row, n bits an index, least significant bit first; each row starts at a
byte, and one spare byte at the end lets every index be read as part of two bytes.
"""

# mypy: disable-error-code="valid-type"
# (TVMScript reads annotations as values.)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script import tirx as T

from gq_tvm.ops.weight import Weight
from gq_tvm.schedules.cpu.vector_math import SCALAR_MATH
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.family import OPAQUE, Choice, Family, Product, shared_codebook
from gq_tvm.schedules.scalar.recurrent import scalar_recurrent
from gq_tvm.schedules.scalar.rows import dot_with, dtypes, load_row_of, row_bytes
from gq_tvm.targets import Target


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


class Scalar(Family):
    """Plain loops, one weight at a time."""

    name = "scalar"
    loops = "scalars"

    def supports(self, target: Target, product: Product) -> bool:
        """Every product whose sums cannot overflow, on every target."""
        return product.fits_int32

    def pack(self, choice: Choice, weight: Weight) -> dict[str, NDArray]:
        """Operands: weights u8 [N * row_bytes + 1], table [2^bits], scale f32 [N]."""
        table, scale = shared_codebook(choice.product, weight)
        packed = pack_rows(weight.indices, choice.product.bits)
        return {"weights": packed, "table": table, "scale": scale}

    def linear(
        self, choice: Choice, epilogue: Epilogue | None = None, parallel: bool = False
    ) -> tirx.PrimFunc:
        """See `Family.linear`."""
        product = choice.product
        m = tirx.Var("m", "int64") if product.rows is None else product.rows
        n, k, bits, outputs = product.n, product.k, product.bits, product.outputs
        size, entries = n * row_bytes(k, bits) + 1, 2**bits
        element, accumulator = dtypes(product)
        load_row, dot = load_row_of(product), dot_with(product)
        after = epilogue or Epilogue()
        glu, activation, factor = product.glu, after.activation, after.scale

        @T.macro
        def body(x, weights, table, scale, bias, residual, y):
            row = T.sblock_alloc_buffer((k,), element)
            row_scale = T.sblock_alloc_buffer((1,), "float32")
            total = T.sblock_alloc_buffer((1,), accumulator)
            value = T.sblock_alloc_buffer((1,), "float32")
            for i in range(m):
                load_row(x, i, row, row_scale)
                for j in range(outputs):
                    dot(row, weights, table, j, total)
                    value[0] = T.Cast("float32", total[0]) * (row_scale[0] * scale[j]) + bias[j]
                    if glu:
                        dot(row, weights, table, j + outputs, total)
                        value[0] = SCALAR_MATH.gated(
                            value[0],
                            T.Cast("float32", total[0]) * (row_scale[0] * scale[j + outputs])
                            + bias[j + outputs],
                        )
                    else:
                        value[0] = SCALAR_MATH.function(activation)(value[0])
                    if residual is None:
                        y[i, j] = T.float32(factor) * value[0]
                    else:
                        y[i, j] = residual[i, j] + T.float32(factor) * value[0]

        @T.prim_func(s_tir=True)
        def plain(
            x: T.Buffer((m, k), "float32"),
            weights: T.Buffer((size,), "uint8"),
            table: T.Buffer((entries,), element),
            scale: T.Buffer((n,), "float32"),
            bias: T.Buffer((n,), "float32"),
            y: T.Buffer((m, outputs), "float32"),
        ):
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            body(x, weights, table, scale, bias, None, y)

        @T.prim_func(s_tir=True)
        def with_residual(
            x: T.Buffer((m, k), "float32"),
            weights: T.Buffer((size,), "uint8"),
            table: T.Buffer((entries,), element),
            scale: T.Buffer((n,), "float32"),
            bias: T.Buffer((n,), "float32"),
            residual: T.Buffer((m, outputs), "float32"),
            y: T.Buffer((m, outputs), "float32"),
        ):
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            body(x, weights, table, scale, bias, residual, y)

        made = with_residual if after.residual else plain
        return made.with_attr("global_symbol", "scalar_linear")

    def _recurrent(
        self, cell: str, x_part: Choice, h_part: Choice, steps: int | None, parallel: bool
    ) -> tirx.PrimFunc:
        return scalar_recurrent(cell, x_part.product, h_part.product, steps)
