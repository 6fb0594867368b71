"""One axis of a convolution: which inputs the taps of an output lie at once they are copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.windows import Axis

Expr = Any


@dataclass(frozen=True)
class Phase:
    """The taps of an axis that one in ``step`` outputs sees: the weight's ``first``, and on.

    Tap m is in slot ``m % slots`` at ``offset + m // slots * move``.
    """

    number: Expr
    first: Expr
    step: int
    count: Any
    slots: int
    offset: int
    move: int

    def place(self, m: Expr) -> tuple[Expr, Expr]:
        """The slot of tap m and where in it the tap is."""
        if self.slots == 1:
            return 0, self.offset + m * self.move
        if self.count <= self.slots:
            return m, self.offset
        return m % self.slots, self.offset + m // self.slots * self.move


class Places:
    """Where the inputs and outputs of an axis are in a block."""

    def __init__(self, axis: Axis, transposed: bool) -> None:
        self.axis, self.transposed = axis, transposed
        common = gcd(axis.stride, axis.dilation)
        period, move = axis.stride // common, axis.dilation // common
        if transposed:
            self.slots, self.skip, self.spacing = 1, 1, axis.stride
            self.reach = (axis.taps - 1) * axis.dilation // axis.stride
            self.first = axis.left // axis.stride
        else:
            self.slots, self.skip, self.spacing = min(axis.taps, period), axis.stride, 1
            self.reach = (axis.taps - 1) // period * move
            self.first = 0
        self.period, self.move = period, move

    def each_phase(self, body: Callable[[Phase], None]) -> None:
        """Emit ``body`` for every phase."""
        axis = self.axis
        if not self.transposed:
            body(Phase(0, 0, 1, axis.taps, self.period, 0, self.move))
        elif axis.dilation == 1:
            each(
                axis.stride,
                lambda r: body(
                    Phase(
                        r, r, self.period, (axis.taps - 1 - r) // axis.stride + 1, 1, self.reach, -1
                    )
                ),
            )
        else:
            for number in range(axis.stride):
                taps = [j for j in range(axis.taps) if j * axis.dilation % axis.stride == number]
                first = taps[0] if taps else 0
                offset = self.reach - first * axis.dilation // axis.stride
                body(Phase(number, first, self.period, len(taps), 1, offset, -self.move))

    def places(self, out: Any) -> Any:
        """How many places of the axis outputs are computed at."""
        if not self.transposed:
            return out
        return (out - 1 + self.axis.left) // self.axis.stride - self.first + 1

    def input(self, place: Expr, slot: Expr) -> Expr:
        """The input that is copied for ``place`` of a slot, counted from the first output's."""
        if self.transposed:
            return place + (self.first - self.reach)
        return place * self.axis.stride + (slot * self.axis.dilation - self.axis.left)

    def output(self, place: Expr, phase: Phase) -> Expr:
        """The output of a phase at a place."""
        if not self.transposed:
            return place
        return (place + self.first) * self.axis.stride + (phase.number - self.axis.left)
