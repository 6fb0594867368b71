"""Matrices of floats in squares, of as many vectors as a vector has lanes, turned in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each

Expr = Any


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
