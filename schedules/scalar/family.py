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

from gq_tvm.errors import Error
from gq_tvm.schedules.cpu.vector_math import SCALAR_MATH
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.family import OPAQUE, Choice, Family, Product, shared_codebook
from gq_tvm.schedules.scalar.gru import scalar_gru
from gq_tvm.schedules.scalar.rows import dot_with, dtypes, load_row_of, row_bytes
from gq_tvm.schedules.schedule import Schedule
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

    def supports(self, target: Target, product: Product) -> bool:
        """Every product whose sums cannot overflow, on every target."""
        return product.fits_int32

    def pack(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        indices: NDArray[np.uint8],
        codebook: NDArray[np.float32],
    ) -> dict[str, NDArray]:
        """Operands: weights u8 [N * row_bytes + 1], table [2^bits], scale f32 [N]."""
        table, scale = shared_codebook(product, codebook)
        return {"weights": pack_rows(indices, product.bits), "table": table, "scale": scale}

    def linear(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        epilogue: Epilogue | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        """See `Family.linear`."""
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

    def lstm(
        self,
        target: Target,
        x_part: Choice,
        h_part: Choice,
        steps: int | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        """See `Family.lstm`."""
        _check_alone(x_part)
        batch = tirx.Var("batch", "int64")
        frames = tirx.Var("steps", "int64") if steps is None else steps
        x_product, h_product = x_part.product, h_part.product
        width, hidden, n = x_product.k, h_product.k, h_product.n
        x_bytes = n * row_bytes(width, x_product.bits) + 1
        h_bytes = n * row_bytes(hidden, h_product.bits) + 1
        x_entries, h_entries = 2**x_product.bits, 2**h_product.bits
        element, accumulator = dtypes(h_product)
        load_x, load_h = load_row_of(x_product), load_row_of(h_product)
        dot_x, dot_h = dot_with(x_product), dot_with(h_product)

        @T.prim_func(s_tir=True)
        def scalar_lstm(
            x: T.Buffer((batch, frames, width), "float32"),
            h0: T.Buffer((batch, hidden), "float32"),
            c0: T.Buffer((batch, hidden), "float32"),
            x_weights: T.Buffer((x_bytes,), "uint8"),
            x_table: T.Buffer((x_entries,), element),
            x_scale: T.Buffer((n,), "float32"),
            h_weights: T.Buffer((h_bytes,), "uint8"),
            h_table: T.Buffer((h_entries,), element),
            h_scale: T.Buffer((n,), "float32"),
            bias: T.Buffer((n,), "float32"),
            y: T.Buffer((batch, frames, hidden), "float32"),
            h: T.Buffer((batch, hidden), "float32"),
            c: T.Buffer((batch, hidden), "float32"),
        ):
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            frame = T.sblock_alloc_buffer((1, width), "float32")
            x_row = T.sblock_alloc_buffer((width,), element)
            h_row = T.sblock_alloc_buffer((hidden,), element)
            row_scale = T.sblock_alloc_buffer((1,), "float32")
            total = T.sblock_alloc_buffer((1,), accumulator)
            gates = T.sblock_alloc_buffer((n,), "float32")
            for b in range(batch):
                for j in range(hidden):
                    h[b, j] = h0[b, j]
                    c[b, j] = c0[b, j]
                for t in range(frames):
                    for p in range(width):
                        frame[0, p] = x[b, t, p]
                    load_x(frame, 0, x_row, row_scale)
                    for j in range(n):
                        dot_x(x_row, x_weights, x_table, j, total)
                        gates[j] = (
                            T.Cast("float32", total[0]) * (row_scale[0] * x_scale[j]) + bias[j]
                        )
                    load_h(h, b, h_row, row_scale)
                    for j in range(n):
                        dot_h(h_row, h_weights, h_table, j, total)
                        gates[j] = gates[j] + T.Cast("float32", total[0]) * (
                            row_scale[0] * h_scale[j]
                        )
                    for j in range(hidden):
                        c[b, j] = c[b, j] / SCALAR_MATH.sigmoid_divisor(
                            gates[hidden + j]
                        ) + SCALAR_MATH.sigmoid_tanh(gates[j], gates[2 * hidden + j])
                        h[b, j] = SCALAR_MATH.sigmoid_tanh(gates[3 * hidden + j], c[b, j])
                        y[b, t, j] = h[b, j]

        return scalar_lstm

    def gru(
        self,
        target: Target,
        x_part: Choice,
        h_part: Choice,
        steps: int | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        """See `Family.gru`."""
        _check_alone(x_part)
        return scalar_gru(x_part.product, h_part.product, steps)


def _check_alone(x_part: Choice) -> None:
    if not isinstance(x_part.family, Scalar):
        raise Error(
            f"kernel scalar cannot share a recurrent layer with {x_part.family.name}; ask for one "
            "kernel with --kernel"
        )
