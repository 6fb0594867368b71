"""A tile of a float matrix product: a few rows times a few vectors, its sums in registers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.vector_math import VectorMath

Expr = Any

ROWS = 4  # of a tile
_LEAST = 4  # lanes of a vector that is worth it


def tile_vectors(registers: int) -> int:
    """Vectors of a tile: with ``ROWS`` rows, half of the registers."""
    return registers // 2 // ROWS


def in_tiles(
    lanes: int,
    registers: int,
    rows: Any,
    columns: Any,
    body: Callable[[Expr, int, Expr, int, int], None],
) -> None:
    """Cut a matrix into tiles; the last columns go in single vectors, then one by one.

    Where their number is known, vectors of half the lanes and less come between.

    Args:
        lanes: 32-bit lanes of a vector.
        registers: Vector registers.
        rows: Rows of the matrix.
        columns: Columns of the matrix.
        body: ``body(row, rows, column, vectors, lanes)`` emits a tile.
    """

    def strip(column: Expr, vectors: int, lanes: int) -> None:
        steps = rows // ROWS
        each(steps, lambda i: body(i * ROWS, ROWS, column, vectors, lanes))
        each(rows - steps * ROWS, lambda i: body(steps * ROWS + i, 1, column, vectors, lanes))

    def strips(first: Any, vectors: int, width: int) -> Any:
        """Emit the strips that fit behind column ``first``; return the column behind them."""
        size = vectors * width
        count = (columns - first) // size
        each(count, lambda i: strip(first + i * size, vectors, width))
        return first + count * size

    behind = strips(strips(0, tile_vectors(registers), lanes), 1, lanes)
    while isinstance(behind, int) and lanes > _LEAST:
        lanes //= 2
        behind = strips(behind, 1, lanes)
    strips(behind, 1, 1)


def multiply(
    lanes: int,
    rows: int,
    vectors: int,
    depth: Any,
    left: Callable[..., Expr],
    right: Callable[..., Expr],
    store: Callable[[int, int, Expr], None],
    start: Callable[[int, int], Expr] | None = None,
) -> None:
    """Emit ``store(r, v, start(r, v) + sum over k of left(r, k) * right(v, k))`` for a tile.

    Args:
        lanes: Lanes of the vectors ``right`` returns.
        rows: Rows of the tile.
        vectors: Vectors of the tile.
        depth: Products to a sum; k is several numbers if these are.
        left: Returns a scalar.
        right: Returns a vector.
        store: Takes a result.
        start: What the sums begin with; zero if None.
    """
    math = VectorMath(lanes)
    at = T.ramp(0, 1, lanes) if lanes > 1 else 0
    # One small buffer each: LLVM keeps them in registers.
    sums = [[T.alloc_buffer((lanes,), "float32") for _ in range(vectors)] for _ in range(rows)]
    for r in range(rows):
        for v in range(vectors):
            T.buffer_store(sums[r][v], math.constant(0.0) if start is None else start(r, v), [at])
    with ExitStack() as loops:
        sizes = depth if isinstance(depth, tuple) else (depth,)
        k = [loops.enter_context(T.serial(0, size)) for size in sizes]
        across = [T.bind(right(v, *k)) for v in range(vectors)]
        for r in range(rows):
            factor = T.bind(math.spread(left(r, *k)))
            for v in range(vectors):
                T.buffer_store(sums[r][v], sums[r][v][at] + factor * across[v], [at])
    for r in range(rows):
        for v in range(vectors):
            store(r, v, sums[r][v][at])


def span(column: Expr, v: int, lanes: int) -> Expr:
    """The indices of vector ``v`` of a tile that begins at ``column``."""
    return T.ramp(column + v * lanes, 1, lanes) if lanes > 1 else column + v
