"""The recurrent layers of the scalar family."""

# mypy: disable-error-code="valid-type"
# (TVMScript reads annotations as values.)

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from gq_tvm.schedules.cpu.vector_math import SCALAR_MATH
from gq_tvm.schedules.family import OPAQUE, Product
from gq_tvm.schedules.scalar.rows import dot_with, dtypes, load_row_of, row_bytes


def scalar_recurrent(
    cell: str, x_product: Product, h_product: Product, steps: int | None
) -> tirx.PrimFunc:
    """The kernel of `Family.recurrent`, one weight at a time."""
    batch = tirx.Var("batch", "int64")
    frames = tirx.Var("steps", "int64") if steps is None else steps
    width, hidden, n = x_product.k, h_product.k, h_product.n
    x_bytes = n * row_bytes(width, x_product.bits) + 1
    h_bytes = n * row_bytes(hidden, h_product.bits) + 1
    x_entries, h_entries = 2**x_product.bits, 2**h_product.bits
    element = dtypes(h_product)[0]
    x_sums, h_sums = _sums_of(x_product), _sums_of(h_product)
    step = _lstm_step(hidden) if cell == "lstm" else _gru_step(hidden)

    @T.macro
    def load_state(b, j, old, new):
        new[0][b, j] = old[0][b, j]
        if len(old) > 1:
            new[1][b, j] = old[1][b, j]

    @T.macro
    def body(x, old, x_operands, h_operands, biases, y, new):
        frame = T.sblock_alloc_buffer((1, width), "float32")
        x_row = T.sblock_alloc_buffer((width,), element)
        h_row = T.sblock_alloc_buffer((hidden,), element)
        from_x = T.sblock_alloc_buffer((n,), "float32")
        from_h = T.sblock_alloc_buffer((n,), "float32")
        for b in range(batch):
            for j in range(hidden):
                load_state(b, j, old, new)
            for t in range(frames):
                for p in range(width):
                    frame[0, p] = x[b, t, p]
                x_sums(frame, 0, x_row, x_operands, from_x)
                h_sums(new[0], b, h_row, h_operands, from_h)
                for j in range(hidden):
                    step(b, j, from_x, from_h, biases, new)
                    y[b, t, j] = new[0][b, j]

    if cell == "gru":

        @T.prim_func(s_tir=True)
        def gru(
            x: T.Buffer((batch, frames, width), "float32"),
            h0: T.Buffer((batch, hidden), "float32"),
            x_weights: T.Buffer((x_bytes,), "uint8"),
            x_table: T.Buffer((x_entries,), element),
            x_scale: T.Buffer((n,), "float32"),
            h_weights: T.Buffer((h_bytes,), "uint8"),
            h_table: T.Buffer((h_entries,), element),
            h_scale: T.Buffer((n,), "float32"),
            x_bias: T.Buffer((n,), "float32"),
            h_bias: T.Buffer((n,), "float32"),
            y: T.Buffer((batch, frames, hidden), "float32"),
            h: T.Buffer((batch, hidden), "float32"),
        ):
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            body(
                x,
                (h0,),
                (x_weights, x_table, x_scale),
                (h_weights, h_table, h_scale),
                (x_bias, h_bias),
                y,
                (h,),
            )

        return gru.with_attr("global_symbol", "scalar_gru")

    @T.prim_func(s_tir=True)
    def lstm(
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
        body(
            x,
            (h0, c0),
            (x_weights, x_table, x_scale),
            (h_weights, h_table, h_scale),
            (bias,),
            y,
            (h, c),
        )

    return lstm.with_attr("global_symbol", "scalar_lstm")


def _sums_of(product: Product) -> Any:
    """Macro: row i of a matrix times the weight, f32 [n]."""
    n, accumulator = product.n, dtypes(product)[1]
    load_row, dot = load_row_of(product), dot_with(product)

    @T.macro
    def sums(matrix, i, row, operands, out):
        row_scale = T.sblock_alloc_buffer((1,), "float32")
        total = T.sblock_alloc_buffer((1,), accumulator)
        load_row(matrix, i, row, row_scale)
        for j in range(n):
            dot(row, operands[0], operands[1], j, total)
            out[j] = T.Cast("float32", total[0]) * (row_scale[0] * operands[2][j])

    return sums


def _lstm_step(hidden: int) -> Any:
    """Macro: c and h of unit j, in that order."""

    @T.macro
    def step(b, j, from_x, from_h, biases, state):
        for gate in range(4):
            at = gate * hidden + j
            from_x[at] = from_x[at] + biases[0][at] + from_h[at]
        state[1][b, j] = state[1][b, j] / SCALAR_MATH.sigmoid_divisor(
            from_x[hidden + j]
        ) + SCALAR_MATH.sigmoid_tanh(from_x[j], from_x[2 * hidden + j])
        state[0][b, j] = SCALAR_MATH.sigmoid_tanh(from_x[3 * hidden + j], state[1][b, j])

    return step


def _gru_step(hidden: int) -> Any:
    """Macro: h of unit j."""

    @T.macro
    def step(b, j, from_x, from_h, biases, state):
        for gate in range(3):
            at = gate * hidden + j
            from_x[at] = from_x[at] + biases[0][at]
            from_h[at] = from_h[at] + biases[1][at]
        from_x[2 * hidden + j] = SCALAR_MATH.tanh(
            from_x[2 * hidden + j]
            + SCALAR_MATH.gated(from_h[2 * hidden + j], from_x[j] + from_h[j])
        )
        state[0][b, j] = from_x[2 * hidden + j] + SCALAR_MATH.gated(
            state[0][b, j] - from_x[2 * hidden + j], from_x[hidden + j] + from_h[hidden + j]
        )

    return step
