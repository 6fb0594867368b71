"""Softmax over the last axis."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.float_ops.rows import Row, add, larger
from gq_tvm.schedules.cpu.vector_math import VectorMath
from gq_tvm.schedules.family import OPAQUE

Expr = Any

_INFINITY = float("inf")


def softmax(lanes: int, rows: int | None, width: int | None) -> tirx.PrimFunc:
    """Build ``f(x f32 [m, width], y f32 [m, width])``; sizes that are None are symbolic.

    A row with a NaN, or of nothing but minus infinity, comes out as NaN, as PyTorch has it.
    """
    m = rows if rows is not None else tirx.Var("m", "int64")
    n = width if width is not None else tirx.Var("n", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("softmax")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((m, n), "float32"))
        y = T.arg("y", T.buffer((m, n), "float32"))
        with T.sblock("root"):  # TVM looks for one in functions of a single input
            row = Row(lanes, n)
            with T.serial(0, m) as i:
                peak = row.fold(-_INFINITY, larger, lambda _, at: x[i, at])

                def power(math: VectorMath, at: Expr, i: Expr = i, peak: Expr = peak) -> None:
                    T.buffer_store(y, math.exp(x[i, at] - math.spread(peak)), [i, at])

                row.map(power)
                total = row.fold(0.0, add, lambda _, at: y[i, at])
                inverse = T.bind(T.float32(1) / total)
                row.map(
                    lambda math, at: T.buffer_store(y, y[i, at] * math.spread(inverse), [i, at])
                )
    return builder.get()
