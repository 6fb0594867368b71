"""How kernels read the windows of a convolution: row by row, as the product wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each, ramp
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
        down, across = self.of.rows, self.of.columns

        def store_turned(place: Expr, at: Expr, taps: Sequence[Expr]) -> None:
            index = ramp(at, len(taps))
            for i, vector in enumerate(turned(taps)):
                store(place + i, index, vector)

        def inside(place: Expr, at: Expr, lanes: int) -> None:
            taps = [self._tap(b, row, first + place, at + i).load(lanes) for i in range(lanes)]
            store_turned(place, at, list(map(T.bind, taps)))

        def at_an_edge(place: Expr, at: Expr, lanes: int) -> None:
            square = T.alloc_buffer((lanes, lanes), "float32")

            def line(i: Expr) -> None:
                tap = self._tap(b, row, first + place, at + i)
                with T.If(tap.inside(lanes)):
                    with T.Then():
                        T.buffer_store(square, tap.load(lanes), [i, ramp(0, lanes)])
                    with T.Else():
                        each(
                            lanes, lambda lane: T.buffer_store(square, tap.checked(lane), [i, lane])
                        )

            each(lanes, line)
            store_turned(place, at, [T.bind(square[i, ramp(0, lanes)]) for i in range(lanes)])

        def square(place: Expr, at: Expr, lanes: int) -> None:
            if not self.of.right and not across.left and down == Axis(1, 1):
                inside(place, at, lanes)
                return
            begin = (first + place) * across.stride - across.left
            reach = (lanes - 1) * across.stride + (across.taps - 1) * across.dilation
            there = [begin >= 0, begin + reach < self._width, *self._above_and_below(row)]
            with T.If(tirx.all(*there)):
                with T.Then():
                    inside(place, at, lanes)
                with T.Else():
                    at_an_edge(place, at, lanes)

        in_squares(self.lanes, count, self.of.width, square)

    def _above_and_below(self, row: Expr) -> list[Expr]:
        """That all taps of a row of places are within the rows of x."""
        down = self.of.rows
        if down == Axis(1, 1):
            return []
        begin = row * down.stride - down.left
        return [begin >= 0, begin + (down.taps - 1) * down.dilation < self._height]

    def _tap(self, b: Expr, row: Expr, place: Expr, at: Expr) -> _Tap:
        """What element ``at`` of the rows of some places is, from ``place`` on."""
        down, across = self.of.rows, self.of.columns
        line, number = tirx.floordiv(at, across.taps), tirx.floormod(at, across.taps)
        channel, tap = tirx.floordiv(line, down.taps), tirx.floormod(line, down.taps)
        source = T.bind(row * down.stride + tap * down.dilation - down.left)
        begin = T.bind(place * across.stride + number * across.dilation - across.left)
        there = [] if down == Axis(1, 1) else [source >= 0, source < self._height]
        line = T.bind(channel + self.of.first)
        return _Tap(self._x, [b, line, source], begin, across.stride, self._width, there)


@dataclass(frozen=True)
class _Tap:
    """A tap of places in a row: elements ``begin``, ``begin + stride`` and on of a line of x."""

    x: Any
    line: list[Expr]
    begin: Expr
    stride: int
    width: Expr
    there: list[Expr]

    def load(self, lanes: int) -> Expr:
        """Those of ``lanes`` places, all within x."""
        return self.x[(*self.line, self._at(lanes))]

    def _at(self, lanes: int) -> Expr:
        return self.begin if lanes == 1 else T.ramp(self.begin, self.stride, lanes)

    def inside(self, lanes: int) -> Expr:
        """Whether they are."""
        last = self.begin + (lanes - 1) * self.stride
        return tirx.all(*self.there, self.begin >= 0, last < self.width)

    def checked(self, lane: Expr) -> Expr:
        """That of one place, 0 outside."""
        at = self.begin + lane * self.stride
        inside = tirx.all(*self.there, at >= 0, at < self.width)
        return T.if_then_else(inside, self.x[(*self.line, at)], T.float32(0))


def _places(size: Expr, axis: Axis, behind: int) -> Expr:
    if axis.out is not None:
        return axis.out
    reach = axis.dilation * (axis.taps - 1) + 1
    return tirx.floordiv(size + (axis.left + behind - reach), axis.stride) + 1
