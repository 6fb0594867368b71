"""The GRU of the scalar family."""

# mypy: disable-error-code="valid-type"
# (TVMScript reads annotations as values.)

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from gq_tvm.schedules.cpu.vector_math import SCALAR_MATH
from gq_tvm.schedules.family import OPAQUE, Product
from gq_tvm.schedules.scalar.rows import dot_with, dtypes, load_row_of, row_bytes


def scalar_gru(x_product: Product, h_product: Product, steps: int | None) -> tirx.PrimFunc:
    """The kernel of `Family.gru`, one weight at a time."""
    batch = tirx.Var("batch", "int64")
    frames = tirx.Var("steps", "int64") if steps is None else steps
    width, hidden, n = x_product.k, h_product.k, h_product.n
    x_bytes = n * row_bytes(width, x_product.bits) + 1
    h_bytes = n * row_bytes(hidden, h_product.bits) + 1
    x_entries, h_entries = 2**x_product.bits, 2**h_product.bits
    element, accumulator = dtypes(h_product)
    load_x, load_h = load_row_of(x_product), load_row_of(h_product)
    dot_x, dot_h = dot_with(x_product), dot_with(h_product)

    @T.prim_func(s_tir=True)
    def scalar_gru(
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
        frame = T.sblock_alloc_buffer((1, width), "float32")
        x_row = T.sblock_alloc_buffer((width,), element)
        h_row = T.sblock_alloc_buffer((hidden,), element)
        row_scale = T.sblock_alloc_buffer((1,), "float32")
        total = T.sblock_alloc_buffer((1,), accumulator)
        from_x = T.sblock_alloc_buffer((n,), "float32")
        from_h = T.sblock_alloc_buffer((n,), "float32")
        candidate = T.sblock_alloc_buffer((1,), "float32")
        for b in range(batch):
            for j in range(hidden):
                h[b, j] = h0[b, j]
            for t in range(frames):
                for p in range(width):
                    frame[0, p] = x[b, t, p]
                load_x(frame, 0, x_row, row_scale)
                for j in range(n):
                    dot_x(x_row, x_weights, x_table, j, total)
                    from_x[j] = (
                        T.Cast("float32", total[0]) * (row_scale[0] * x_scale[j]) + x_bias[j]
                    )
                load_h(h, b, h_row, row_scale)
                for j in range(n):
                    dot_h(h_row, h_weights, h_table, j, total)
                    from_h[j] = (
                        T.Cast("float32", total[0]) * (row_scale[0] * h_scale[j]) + h_bias[j]
                    )
                for j in range(hidden):
                    candidate[0] = SCALAR_MATH.tanh(
                        from_x[2 * hidden + j]
                        + SCALAR_MATH.gated(from_h[2 * hidden + j], from_x[j] + from_h[j])
                    )
                    h[b, j] = candidate[0] + SCALAR_MATH.gated(
                        h[b, j] - candidate[0], from_x[hidden + j] + from_h[hidden + j]
                    )
                    y[b, t, j] = h[b, j]

    return scalar_gru
