"""Matrices turned round."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import ramp
from gq_tvm.schedules.cpu.squares import in_squares, turned
from gq_tvm.schedules.family import OPAQUE

Expr = Any


def transpose(
    lanes: int, batch: int | None, rows: int | None, columns: int | None
) -> tirx.PrimFunc:
    """Build ``f(x f32 [B, R, C], y f32 [B, C, R])``; sizes that are None are symbolic."""
    sizes = {"batch": batch, "rows": rows, "columns": columns}
    b_size, r_size, c_size = (
        tirx.Var(name, "int64") if size is None else size for name, size in sizes.items()
    )
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("transpose")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((b_size, r_size, c_size), "float32"))
        y = T.arg("y", T.buffer((b_size, c_size, r_size), "float32"))
        with T.sblock("root"), T.serial(0, b_size) as b:  # TVM looks for a block

            def square(row: Expr, column: Expr, lanes: int) -> None:
                across = [T.bind(x[b, row + i, ramp(column, lanes)]) for i in range(lanes)]
                for i, vector in enumerate(turned(across)):
                    T.buffer_store(y, vector, [b, column + i, ramp(row, lanes)])

            in_squares(lanes, r_size, c_size, square)
    return builder.get()
