"""How kernels read the windows of a convolution: row by row, as the product wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.squares import in_squares, turned
from gq_tvm.schedules.windows import Axis, Windows

Expr = Any
#: store(place, index, value): takes elements of the row of a place, a vector or a scalar.
Store = Callable[[Expr, Expr, Expr], None]


class WindowReader:
    """Emits the copying of rows; ``declare`` comes first, among the arguments.

    Attributes:
        batch: B, a number or a variable, as the two below.
        rows: H'.
        columns: W'.
    """

    def __init__(self, lanes: int, of: Windows) -> None:
        self.lanes, self.of = lanes, of
        sizes = {"batch": of.batch, "height": of.rows.size, "width": of.columns.size}
        self.batch, self._height, self._width = (
            tirx.Var(name, "int64") if size is None else size for name, size in sizes.items()
        )
        self.rows = _places(self._height, of.rows, of.below)
        self.columns = _places(self._width, of.columns, of.right)

    def declare(self) -> None:
        """Declare x f32 [B, C, H, W] as an argument."""
        shape = (self.batch, self.of.whole, self._height, self._width)
        self._x = T.arg("x", T.buffer(shape, "float32"))

    def read(self, b: Expr, row: Expr, first: Expr, count: Any, store: Store) -> None:
        """Emit the reading of ``count`` places of a row of places, from ``first`` on.

        The places of a tap lie together in x, the taps of a place in its row: squares of both are
        turned. ``store`` counts places from ``first``.
        """
        across = self.of.columns

        def inside(place: Expr, at: Expr, lanes: int) -> None:
            taps = [self._tap(b, row, first + place, at + i, lanes, False) for i in range(lanes)]
            index = at if lanes == 1 else T.ramp(at, 1, lanes)
            for i, vector in enumerate(turned(taps)):
                store(place + i, index, vector)

        def at_an_edge(place: Expr, at: Expr, lanes: int) -> None:
            def one(i: Expr, j: Expr) -> None:
                store(place + i, at + j, self._tap(b, row, first + place + i, at + j, 1, True))

            each(lanes, lambda i: each(lanes, lambda j: one(i, j)))

        def square(place: Expr, at: Expr, lanes: int) -> None:
            if not self.of.right and not across.left:
                inside(place, at, lanes)
                return
            begin = (first + place) * across.stride - across.left
            reach = (lanes - 1) * across.stride + (across.taps - 1) * across.dilation
            with T.If(tirx.all(begin >= 0, begin + reach < self._width)):
                with T.Then():
                    inside(place, at, lanes)
                with T.Else():
                    at_an_edge(place, at, lanes)

        in_squares(self.lanes, count, self.of.width, square)

    def _tap(self, b: Expr, row: Expr, place: Expr, at: Expr, lanes: int, checked: bool) -> Expr:
        """Element ``at`` of the rows of ``lanes`` places; within x unless that is checked."""
        down, across = self.of.rows, self.of.columns
        line, number = tirx.floordiv(at, across.taps), tirx.floormod(at, across.taps)
        channel, tap = tirx.floordiv(line, down.taps), tirx.floormod(line, down.taps)
        source = T.bind(row * down.stride + tap * down.dilation - down.left)
        begin = T.bind(place * across.stride + number * across.dilation - across.left)
        index = begin if lanes == 1 else T.ramp(begin, across.stride, lanes)
        there = [begin >= 0, begin < self._width] if checked else []
        if down != Axis(1, 1):
            there += [source >= 0, source < self._height]
        value = self._x[b, channel + self.of.first, source, index]
        if not there:
            return T.bind(value)
        zero = T.float32(0) if lanes == 1 else T.broadcast(T.float32(0), lanes)
        return T.bind(T.if_then_else(tirx.all(*there), value, zero))


def _places(size: Expr, axis: Axis, behind: int) -> Expr:
    if axis.out is not None:
        return axis.out
    reach = axis.dilation * (axis.taps - 1) + 1
    return tirx.floordiv(size + (axis.left + behind - reach), axis.stride) + 1
