"""The rows that a convolution multiplies, written out."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.windows import WindowReader
from gq_tvm.schedules.family import OPAQUE
from gq_tvm.schedules.windows import Windows


def unfold(lanes: int, of: Windows) -> tirx.PrimFunc:
    """Build ``f(x f32 [B, C, H, W], y f32 [B, H', W', c * h * w])``."""
    reader = WindowReader(lanes, of)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("unfold")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        reader.declare()
        shape = (reader.batch, reader.rows, reader.columns, of.width)
        y = T.arg("y", T.buffer(shape, "float32"))
        # TVM looks for a block.
        with T.sblock("root"), T.grid(reader.batch, reader.rows) as (b, row):
            reader.read(
                b, row, 0, reader.columns,
                lambda place, at, value: T.buffer_store(y, value, [b, row, place, at]),
            )  # fmt: skip
    return builder.get()
