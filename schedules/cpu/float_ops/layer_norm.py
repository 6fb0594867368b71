"""Layer norm over the last axis: mean, then variance around it, then the rows."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.float_ops.rows import Row, add
from gq_tvm.schedules.cpu.vector_math import VectorMath
from gq_tvm.schedules.family import OPAQUE

Expr = Any


def layer_norm(lanes: int, rows: int | None, width: int, epsilon: float) -> tirx.PrimFunc:
    """Build ``f(x f32 [m, width], gamma f32 [width], beta f32 [width], y f32 [m, width])``.

    Args:
        lanes: 32-bit lanes of a vector.
        rows: m, or None where it is known only at run time.
        width: Elements of a row.
        epsilon: Added to the variance.
    """
    m = rows if rows is not None else tirx.Var("m", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("layer_norm")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((m, width), "float32"))
        gamma = T.arg("gamma", T.buffer((width,), "float32"))
        beta = T.arg("beta", T.buffer((width,), "float32"))
        y = T.arg("y", T.buffer((m, width), "float32"))
        row = Row(lanes, width)
        with T.serial(0, m) as i:
            total = row.fold(0.0, add, lambda _, at: x[i, at])
            mean = T.bind(total / T.float32(width))

            def squared(math: VectorMath, at: Expr, i: Expr = i, mean: Expr = mean) -> Expr:
                apart = T.bind(x[i, at] - math.spread(mean))
                return apart * apart

            variance = row.fold(0.0, add, squared) / T.float32(width)
            factor = T.bind(T.float32(1) / T.sqrt(variance + T.float32(epsilon)))

            def scaled(
                math: VectorMath, at: Expr, i: Expr = i, mean: Expr = mean, factor: Expr = factor
            ) -> None:
                value = (x[i, at] - math.spread(mean)) * math.spread(factor)
                T.buffer_store(y, value * gamma[at] + beta[at], [i, at])

            row.map(scaled)
    return builder.get()
