"""Products of float matrices, one for each item of a batch."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.float_ops.tile import in_tiles, multiply, span
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Size = int | None  # None is symbolic


def matmul(lanes: int, registers: int, batch: Size, m: Size, n: Size, k: Size) -> tirx.PrimFunc:
    """Build ``f(a f32 [batch, m, k], b f32 [batch, k, n], y f32 [batch, m, n])``."""
    sizes = {"batch": batch, "m": m, "n": n, "k": k}
    items, rows, columns, depth = (
        tirx.Var(name, "int64") if size is None else size for name, size in sizes.items()
    )
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("matmul")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        a = T.arg("a", T.buffer((items, rows, depth), "float32"))
        b = T.arg("b", T.buffer((items, depth, columns), "float32"))
        y = T.arg("y", T.buffer((items, rows, columns), "float32"))

        def tile(
            item: Expr, row: Expr, height: int, column: Expr, vectors: int, lanes: int
        ) -> None:
            multiply(
                lanes,
                height,
                vectors,
                depth,
                left=lambda r, p: a[item, row + r, p],
                right=lambda v, p: b[item, p, span(column, v, lanes)],
                store=lambda r, v, value: T.buffer_store(
                    y, value, [item, row + r, span(column, v, lanes)]
                ),
            )

        def product(item: Expr) -> None:
            in_tiles(lanes, registers, rows, columns, lambda *at: tile(item, *at))

        each(items, product)
    return builder.get()
