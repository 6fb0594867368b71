"""An activation that no kernel before it could take in."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.float_ops.rows import Row
from gq_tvm.schedules.family import OPAQUE


def activation(lanes: int, name: str, size: int | None) -> tirx.PrimFunc:
    """Build ``f(x f32 [size], y f32 [size])``; a size that is None is symbolic.

    Args:
        lanes: 32-bit lanes of a vector.
        name: One of ``vector_math.FUNCTIONS``.
        size: Elements.
    """
    n = size if size is not None else tirx.Var("n", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((n,), "float32"))
        y = T.arg("y", T.buffer((n,), "float32"))
        with T.sblock("root"):  # TVM looks for one in functions of a single input
            Row(lanes, n).map(lambda math, at: T.buffer_store(y, math.function(name)(x[at]), [at]))
    return builder.get()
