"""What every kernel is emitted with: loops over tiles and rows, and spans of a buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

Expr = Any
Buffer = Any


def ramp(first: Expr, lanes: int) -> Expr:
    """The index of ``lanes`` elements in a row from ``first`` on."""
    return first if lanes == 1 else T.ramp(first, 1, lanes)


def span(buffer: Buffer, first: Expr, lanes: int) -> Expr:
    """Read ``lanes`` elements in a row of a flat buffer, as one vector."""
    return buffer[ramp(first, lanes)]


def spread(value: Expr, lanes: int) -> Expr:
    """A vector with the scalar ``value`` in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def each_tile(
    count: int, parallel: bool, tables: Callable[[], None], body: Callable[[Expr], None]
) -> None:
    """Emit ``body`` for ``count`` tiles, on the runtime's threads if ``parallel``.

    A thread holds its own registers: with threads the tables are loaded for each tile.
    """
    if not parallel or count <= 1:
        tables()
        each(count, body)
        return
    with T.parallel(0, count) as tile:
        tables()
        body(tile)


def each_rows(count: Any, height: int, body: Callable[[list[Expr]], None]) -> None:
    """Emit ``body(slots)`` for ``count`` staged rows: ``height`` at once, then one by one."""
    steps = count // height
    each(steps, lambda i: body([i * height + row for row in range(height)]))
    if height > 1:
        each(count - steps * height, lambda i: body([steps * height + i]))


def each(count: Any, body: Callable[[Expr], None]) -> None:
    """Emit ``for i in range(count): body(i)``; no loop where ``count`` is known to be 0 or 1."""
    if isinstance(count, int) and count <= 1:
        if count == 1:
            body(T.int32(0))
        return
    with T.serial(0, count) as i:
        body(i)
