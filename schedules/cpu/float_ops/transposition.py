"""Matrices turned round, a square of as many vectors as a vector has lanes at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each, ramp
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


def turned(vectors: Sequence[Expr]) -> list[Expr]:
    """The columns of a square whose rows are vectors of as many floats.

    Squares of half the size, off the diagonal, change places; then those within each.
    """
    found, half = list(vectors), len(vectors) // 2
    lanes = range(len(vectors))
    while half:
        first = [i + len(lanes) - half if i & half else i for i in lanes]
        second = [i + len(lanes) if i & half else i + half for i in lanes]
        for i in lanes:
            if not i & half:
                pair = found[i], found[i + half]
                found[i] = T.bind(tirx.Shuffle(pair, first))
                found[i + half] = T.bind(tirx.Shuffle(pair, second))
        half //= 2
    return found


def in_squares(
    lanes: int, rows: Any, columns: Any, square: Callable[[Expr, Expr, int], None]
) -> None:
    """Emit ``square(row, column, lanes)`` until a matrix is covered; some may overlap.

    Squares have as many lanes as fit; where it is known only at run time whether they do, there is
    a loop of squares of one lane besides.

    Args:
        lanes: Of a vector at most, a power of two.
        rows: Rows of the matrix.
        columns: Columns of the matrix.
        square: Emits one.
    """
    fixed = [size for size in (rows, columns) if isinstance(size, int)]
    while any(size < lanes for size in fixed):
        lanes //= 2

    def squares(lanes: int) -> None:
        def along(size: Any, body: Callable[[Expr], None]) -> None:
            last, whole = size - lanes, isinstance(size, int) and size % lanes == 0
            count = (size + lanes - 1) // lanes
            each(count, lambda i: body(i * lanes if whole else T.bind(T.min(i * lanes, last))))

        along(rows, lambda row: along(columns, lambda column: square(row, column, lanes)))

    unknown = [size for size in (rows, columns) if not isinstance(size, int)]
    if lanes == 1 or not unknown:
        squares(lanes)
        return
    with T.If(tirx.all(*[size >= lanes for size in unknown])):
        with T.Then():
            squares(lanes)
        with T.Else():
            squares(1)
