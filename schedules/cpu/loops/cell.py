"""The step of a recurrent layer: the h-part of its gates, and the new state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each, each_tile, ramp
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.cpu.outliers import TileOutliers
from gq_tvm.schedules.cpu.staging.float_rows import FloatRows
from gq_tvm.schedules.cpu.vector_math import VectorMath

Expr = Any
Buffer = Any

_GROUP = 8  # most units whose cells are updated together


class Inputs(Protocol):
    """The x-part of the gates, still to be computed."""

    engine: Engine

    def product(self, tile: Expr, slots: list[Expr]) -> None:
        """Compute a tile of the gates of some staged frames."""


class Functions:
    """The activation functions of a cell, by their places in it.

    Args:
        math: Of the vectors they take.
        names: See ``ops.checks_recurrent``.
        clip: What they are given is limited to [-clip, clip]; 0 for no limit.
    """

    def __init__(self, math: VectorMath, names: tuple[str, ...], clip: float = 0.0) -> None:
        self.math, self.names, self.clip = math, names, clip

    def value(self, place: int, x: Expr) -> Expr:
        """``f(x)``."""
        return getattr(self.math, self.names[place])(self._limited(x))

    def times(self, place: int, x: Expr, value: Expr) -> Expr:
        """``f(x) * value``."""
        if self.names[place] == "sigmoid":
            return value / self.math.sigmoid_divisor(self._limited(x))
        return self.value(place, x) * value

    def both(self, place: int, x: Expr, other: int, y: Expr) -> Expr:
        """``f(x) * g(y)``."""
        if (self.names[place], self.names[other]) == ("sigmoid", "tanh"):
            return self.math.sigmoid_tanh(self._limited(x), self._limited(y))
        return self.times(place, x, self.value(other, y))

    def _limited(self, x: Expr) -> Expr:
        return self.math.clamp(x, -self.clip, self.clip) if self.clip else x


@dataclass
class Multiplied:
    """A product: what computes it, and the outliers of its weight."""

    engine: Engine
    outliers: TileOutliers | None


@dataclass
class Step:
    """A step of a sequence.

    Attributes:
        b: The sequence.
        t: The frame.
        slot: Where the x-part of its gates is.
        old: The parts of the state before it, f32 [B, ...].
    """

    b: Expr
    t: Expr
    slot: Expr
    old: list[Buffer]


@dataclass
class Parts:
    """What a cell works with.

    Attributes:
        from_h: The h-part.
        behind: The product behind the gates (``Cell.behind``), None if there is none.
        functions: The activation functions.
        hidden: H.
        parallel: Whether tiles are dealt out to the runtime's threads.
        gates: The x-part of the gates, f32 [slots, packed rows].
        y: f32 [B, T, P].
        state: Its parts, f32 [B, P] and so on.
        biases: Those that are not added to the x-part.
    """

    from_h: Multiplied
    behind: Multiplied | None
    functions: Functions
    hidden: int
    parallel: bool
    gates: Buffer
    y: Buffer
    state: list[Buffer]
    biases: list[Buffer]


class Cell(ABC):
    """Emits a step.

    Attributes:
        name: What the kernel is called.
        gates_a_unit: Output vectors of a unit, of the x-part.
        gates_of_h: Those of the h-part, 0 for as many.
        states: The names of the parts of the state; the first is what the h-part multiplies.
        biases: How many it has: 1, added to the x-part, or one for each part.
        behind: What the weight of a product behind the gates is called, "" if there is none.
    """

    name: str
    gates_a_unit: int
    gates_of_h: int = 0
    states: tuple[str, ...]
    biases: int
    behind: str = ""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.engine, self.outliers = parts.from_h.engine, parts.from_h.outliers
        self.functions = parts.functions
        if self.outliers is not None:  # the state as it was, while that of the step is written
            self._floats = FloatRows(self.engine.k, self.engine.k, self.engine.lanes)
            self._floats.begin(1)
        self.gates, self.y, self.state = parts.gates, parts.y, parts.state
        self.whole_units, self.rest = divmod(parts.hidden, self.engine.lanes)

    @abstractmethod
    def add(self, slot: Expr, at: Expr, total: Expr) -> None:
        """Take a vector of the h-part, of the packed rows ``at``."""

    @abstractmethod
    def update(self, step: Step, first: Expr, count: int, partial: bool) -> None:
        """Emit the new state of ``count`` units from ``first`` on, whose gates are there.

        Each is a chain of operations: several side by side fill the CPU.
        """

    def take(self, step: Step, unit: Expr, new: Expr, partial: bool) -> None:
        """Emit that a unit of the new h is kept, in the state and in the outputs."""
        self.store(self.state[0], new, [step.b], unit, partial)
        self.store(self.y, new, [step.b, step.t], unit, partial)

    def between(self, step: Step) -> None:  # noqa: B027 - few have anything there
        """Emit what stands between all gates and all updates, in cells that have ``behind``."""

    def finish(self, step: Step) -> None:  # noqa: B027 - the same
        """Emit what follows the updates, in cells that have ``behind``."""

    def step(self, step: Step, inputs: Inputs | None = None) -> None:
        """Emit a step; if ``inputs`` are given, the x-part is still to be computed."""
        # The previous state is staged whole before any of the new one is written.
        load = _row_of(step.old[0], step.b)
        self.engine.stage(load, T.int32(0))
        if self.outliers is not None:
            self._floats.stage(load, T.int32(0))
        if self.behind:
            self._apart(step, inputs)
        else:
            self._together(step, inputs)

    def _apart(self, step: Step, inputs: Inputs | None) -> None:
        """All products, then all updates."""
        for engine, product in self._products(step.slot, inputs):
            each_tile(engine.tiles, self.parts.parallel, engine.tables, product)
        self.between(step)
        each(self.whole_units, lambda unit: self.update(step, unit, 1, False))
        if self.rest:
            self.update(step, T.int32(self.whole_units), 1, True)
        self.finish(step)

    def _together(self, step: Step, inputs: Inputs | None) -> None:
        """Group by group: its products, its updates."""
        parts = self._products(step.slot, inputs)

        def tables() -> None:
            for engine, _ in parts:
                engine.tables()

        def cells(first: Expr, count: int, partial: bool = False) -> None:
            self.update(step, first, count, partial)

        def group(index: Expr) -> None:
            for engine, product in parts:
                count = units * self.gates_a_unit // engine.vectors
                _tiles(index * count, count, product)
            cells(index * units, units)

        units = self._group([engine for engine, _ in parts])
        groups = self.whole_units // units
        each_tile(groups, self.parts.parallel, tables, group)
        if groups * units < self.whole_units or self.rest:  # what is left: part of a group
            tables()
            for engine, product in parts:
                first = groups * units * self.gates_a_unit // engine.vectors
                _tiles(T.int32(first), engine.tiles - first, product)
            cells(T.int32(groups * units), self.whole_units - groups * units)
            if self.rest:
                cells(T.int32(self.whole_units), 1, partial=True)

    def _products(
        self, slot: Expr, inputs: Inputs | None
    ) -> list[tuple[Engine, Callable[[Expr], None]]]:
        """What computes a tile of each part of the gates."""
        parts: list[tuple[Engine, Callable[[Expr], None]]] = []
        if inputs is not None:
            parts.append((inputs.engine, lambda tile: inputs.product(tile, [slot])))
        parts.append((self.engine, lambda tile: self._product(tile, slot)))
        return parts

    def _group(self, engines: list[Engine]) -> int:
        """Units of a group: whole tiles of each engine, and groups that leave little over."""
        gates = self.gates_a_unit
        least = math.lcm(gates, *(engine.vectors for engine in engines)) // gates
        whole = self.whole_units // least * least
        return max(n for n in range(least, max(_GROUP, least) + 1, least) if whole % n == 0)

    def _product(self, tile: Expr, slot: Expr) -> None:
        """Compute a tile of the h-part."""

        def store(_: int, v: int, total: Expr) -> None:
            self.add(slot, vector_of(self.engine, tile, v), total)

        take: Store = store
        if self.outliers is not None:
            take = self.outliers.added(tile, [lambda k: self._floats.buffer[0, k]], store)
        self.engine.multiply(tile, [T.int32(0)], take)

    def multiply_behind(self, row: Buffer, into: Buffer) -> None:
        """Emit the product behind the gates: of f32 [K] into f32 [packed rows]."""
        assert self.parts.behind is not None
        engine, outliers = self.parts.behind.engine, self.parts.behind.outliers
        engine.stage(lambda k, width: row[ramp(k, width)], T.int32(0))

        def tile(tile: Expr) -> None:
            def store(_: int, v: int, total: Expr) -> None:
                T.buffer_store(into, total, [vector_of(engine, tile, v)])

            take: Store = store
            if outliers is not None:
                take = outliers.added(tile, [lambda k: row[k]], store)
            engine.multiply(tile, [T.int32(0)], take)

        each_tile(engine.tiles, self.parts.parallel, engine.tables, tile)

    def padded(self) -> Buffer:
        """Room for hidden states in whole units."""
        size = (self.whole_units + (self.rest > 0)) * self.engine.lanes
        return T.alloc_buffer((size,), "float32")

    def of_unit(self, unit: Expr, gates: int = 0) -> list[Expr]:
        """Where the gates of a unit stand among the packed rows, of a part with ``gates``."""
        lanes, gates = self.engine.lanes, gates or self.gates_a_unit
        first = unit * (gates * lanes)
        return [ramp(first + v * lanes, lanes) for v in range(gates)]

    # Where a unit is partial, no access leaves the tensors: lanes are masked.

    def load(self, buffer: Buffer, row: list[Expr], unit: Expr, partial: bool) -> Expr:
        """A unit of a row of hidden states."""
        at = ramp(unit * self.engine.lanes, self.engine.lanes)
        if not partial:
            return buffer[(*row, at)]
        dtype = f"float32x{self.engine.lanes}"
        return tirx.op.masked_load(dtype, buffer, *row, at, self._mask())

    def store(
        self, buffer: Buffer, value: Expr, row: list[Expr], unit: Expr, partial: bool
    ) -> None:
        """Store a unit of a row of hidden states."""
        at = ramp(unit * self.engine.lanes, self.engine.lanes)
        if partial:
            T.evaluate(tirx.op.masked_store(buffer, value, *row, at, self._mask()))
        else:
            T.buffer_store(buffer, value, [*row, at])

    def _mask(self) -> Expr:
        lanes = self.engine.lanes
        return ramp(0, lanes) < T.broadcast(T.int32(self.rest), lanes)


def _row_of(buffer: Buffer, b: Expr) -> Callable[[Expr, int], Expr]:
    return lambda k, width: buffer[b, ramp(k, width)]


def _tiles(first: Expr, count: int, product: Callable[[Expr], None]) -> None:
    each(count, lambda i: product(first + i))


def vector_of(engine: Engine, tile: Expr, v: int) -> Expr:
    """Where output vector ``v`` of a tile stands among the packed rows."""
    return ramp(tile * engine.outputs + v * engine.lanes, engine.lanes)
