"""The loops of a recurrent layer around two engines: products, gates and state in one kernel.

What a step does with its products is the cell's (``lstm.py``, ``gru.py``). Weight rows are permuted
before packing (``gate_order``): the output vectors in a row are the gates of the same *unit*, a
vector of hidden states; an LSTM has 4 (i, f, g, o), a GRU 3 (r, z, n). The x-part of a block of
frames is one product over all of them; only the h-part has to wait for the step before. Where there
is one frame a call, both parts are computed in turn, group by group: threads are set going once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each, each_rows, each_tile, ramp
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.cpu.outliers import TileOutliers
from gq_tvm.schedules.cpu.staging.float_rows import FloatRows
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Buffer = Any

_GROUP = 8  # most units whose cells are updated together


def gate_order(hidden: int, lanes: int, gates: int) -> np.ndarray:
    """Return the source row of each packed row, ``int64 [units * gates * lanes]``; -1 is padding.

    PyTorch stacks the gates, ``[i; f; g; o]`` or ``[r; z; n]`` of ``hidden`` rows each.
    """
    units = -(-hidden // lanes)
    state = np.arange(units)[:, None, None] * lanes + np.arange(lanes)[None, None, :]
    rows = np.arange(gates)[None, :, None] * hidden + state
    return np.where(state < hidden, rows, -1).reshape(-1)


def recurrent(
    kind: type[Cell],
    x_part: Engine,
    h_part: Engine,
    hidden: int,
    steps: int | None,
    parallel: bool = False,
) -> tirx.PrimFunc:
    """Build the kernel of a layer for any number of sequences.

    Its arguments: x f32 [B, T, I], each part of the old state f32 [B, H], the operands of the
    x-part and of the h-part, the biases f32 [padded gates * H] in the order of the packed rows, and
    the outputs y f32 [B, T, H] and each part of the new state f32 [B, H].

    Args:
        kind: What a step does, and how many gates, parts of the state and biases it has.
        x_part: Arithmetic and weight layout of the input product: N = the padded gates of
            ``gate_order``, K = I.
        h_part: Those of the recurrent product: the same with K = H.
        hidden: H.
        steps: T, or None where it is known only at run time.
        parallel: Whether tiles are dealt out to the runtime's threads.
    """
    batch = tirx.Var("batch", "int64")
    frames = steps if steps is not None else tirx.Var("steps", "int64")

    def state(suffix: str) -> list[Buffer]:
        made = (T.buffer((batch, hidden), "float32") for _ in kind.states)
        return [T.arg(f"{name}{suffix}", one) for name, one in zip(kind.states, made, strict=True)]

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(kind.name)
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, frames, x_part.k), "float32"))
        old = state("0")
        outliers = []
        for engine in (x_part, h_part):
            engine.declare()
            outliers.append(TileOutliers.of(engine))
            if outliers[-1] is not None:
                outliers[-1].declare()
        sizes = (x_part.padded_n, h_part.padded_n)[: kind.biases]
        biases = [
            T.arg(f"bias{i or ''}", T.buffer((size,), "float32")) for i, size in enumerate(sizes)
        ]
        y = T.arg("y", T.buffer((batch, frames, hidden), "float32"))
        new = state("")
        most = x_part.schedule["block"]
        if steps is not None:
            most = min(most, steps)
        x_part.begin(max(1, most))  # there may be no step
        h_part.begin(1)
        gates = T.alloc_buffer((max(1, most), max(x_part.padded_n, h_part.padded_n)), "float32")
        inputs = _Inputs(x_part, outliers[0], parallel, x, biases[0], gates)
        cell = kind(h_part, outliers[1], hidden, parallel, gates, y, new, biases[1:])
        with T.serial(0, batch) as b:
            if steps == 1:
                inputs.stage(b, 0, 1)
                cell.step(b, T.int32(0), T.int32(0), old, inputs)
            else:
                with T.serial(0, hidden) as j:
                    for before, after in zip(old, new, strict=True):
                        T.buffer_store(after, before[b, j], [b, j])
                if steps == most:
                    _block(inputs, cell, b, 0, steps)
                else:
                    with T.serial(0, tirx.ceildiv(frames, most)) as i:
                        count = T.bind(T.min(T.Cast("int64", most), frames - i * most))
                        _block(inputs, cell, b, i * most, count)
    return builder.get()


def _block(inputs: _Inputs, cell: Cell, b: Expr, first: Any, count: Any) -> None:
    """Emit the steps ``first`` to ``first + count`` of sequence ``b``."""
    inputs.stage(b, first, count)
    inputs.products(count)
    each(count, lambda slot: cell.step(b, first + slot, slot, cell.state))


class _Inputs:
    """Emits the x-part of the gates, bias included."""

    def __init__(
        self,
        engine: Engine,
        outliers: TileOutliers | None,
        parallel: bool,
        x: Buffer,
        bias: Buffer,
        gates: Buffer,
    ) -> None:
        self.engine = engine
        self.outliers = outliers
        self.parallel = parallel
        self.x, self.bias, self.gates = x, bias, gates

    def stage(self, b: Expr, first: Any, count: Any) -> None:
        """Stage the frames ``first`` to ``first + count`` of sequence ``b``."""

        def frame(t: Expr) -> Callable[[Expr, int], Expr]:
            return lambda k, width: self.x[b, t, ramp(k, width)]

        self._floats = lambda slot: lambda k: self.x[b, first + slot, k]
        each(count, lambda slot: self.engine.stage(frame(first + slot), slot))

    def products(self, count: Any) -> None:
        """Compute the gates of the staged frames, a tile of weights with all of them at once."""
        height = self.engine.schedule["rows"]

        def tile(tile: Expr) -> None:
            each_rows(count, height, lambda slots: self.product(tile, slots))

        each_tile(self.engine.tiles, self.parallel, self.engine.tables, tile)

    def product(self, tile: Expr, slots: list[Expr]) -> None:
        """Compute a tile of the gates of some staged frames."""

        def store(row: int, v: int, total: Expr) -> None:
            at = _vector(self.engine, tile, v)
            T.buffer_store(self.gates, total + self.bias[at], [slots[row], at])

        take: Store = store
        if self.outliers is not None:
            take = self.outliers.added(tile, list(map(self._floats, slots)), store)
        self.engine.multiply(tile, slots, take)


class Cell(ABC):
    """Emits a step: the h-part of the gates, the new state.

    Attributes:
        name: What the kernel is called.
        gates_a_unit: Output vectors of a unit.
        states: The names of the parts of the state; the first is what the h-part multiplies.
        biases: How many it has: 1, added to the x-part, or one for each part.
    """

    name: str
    gates_a_unit: int
    states: tuple[str, ...]
    biases: int

    def __init__(
        self,
        engine: Engine,
        outliers: TileOutliers | None,
        hidden: int,
        parallel: bool,
        gates: Buffer,
        y: Buffer,
        state: list[Buffer],
        biases: list[Buffer],
    ) -> None:
        self.engine = engine
        self.outliers = outliers
        self.parallel = parallel
        if outliers is not None:  # the state as it was, while that of the step is written
            self._floats = FloatRows(engine.k, engine.k, engine.lanes)
            self._floats.begin(1)
        self.gates, self.y, self.state, self.more_biases = gates, y, state, biases
        self.whole_units, self.rest = divmod(hidden, engine.lanes)

    @abstractmethod
    def add(self, slot: Expr, at: Expr, total: Expr) -> None:
        """Take a vector of the h-part, of the packed rows ``at``."""

    @abstractmethod
    def update(
        self,
        b: Expr,
        t: Expr,
        slot: Expr,
        old: list[Buffer],
        first: Expr,
        count: int,
        partial: bool,
    ) -> None:
        """Emit the new state of ``count`` units from ``first`` on, whose gates are there.

        Each is a chain of operations: several side by side fill the CPU.
        """

    def step(
        self, b: Expr, t: Expr, slot: Expr, old: list[Buffer], inputs: _Inputs | None = None
    ) -> None:
        """Emit step ``t`` of sequence ``b``, from the state in ``old``.

        The x-part is in slot ``slot``, or, if ``inputs`` are given, still to be computed.
        """
        parts: list[tuple[Engine, Callable[[Expr], None]]] = []
        if inputs is not None:
            parts.append((inputs.engine, lambda tile: inputs.product(tile, [slot])))
        parts.append((self.engine, lambda tile: self._product(tile, slot)))

        def load(k: Expr, width: int) -> Expr:
            return old[0][b, ramp(k, width)]

        def tables() -> None:
            for engine, _ in parts:
                engine.tables()

        def cells(first: Expr, count: int, partial: bool = False) -> None:
            self.update(b, t, slot, old, first, count, partial)

        def group(index: Expr) -> None:
            for engine, product in parts:
                count = units * self.gates_a_unit // engine.vectors
                _tiles(index * count, count, product)
            cells(index * units, units)

        # The previous state is staged whole before any of the new one is written.
        self.engine.stage(load, T.int32(0))
        if self.outliers is not None:
            self._floats.stage(load, T.int32(0))
        units = self._group([engine for engine, _ in parts])
        groups = self.whole_units // units
        each_tile(groups, self.parallel, tables, group)
        if groups * units < self.whole_units or self.rest:  # what is left: part of a group
            tables()
            for engine, product in parts:
                first = groups * units * self.gates_a_unit // engine.vectors
                _tiles(T.int32(first), engine.tiles - first, product)
            cells(T.int32(groups * units), self.whole_units - groups * units)
            if self.rest:
                cells(T.int32(self.whole_units), 1, partial=True)

    def _group(self, engines: list[Engine]) -> int:
        """Units of a group: whole tiles of each engine, and groups that leave little over."""
        gates = self.gates_a_unit
        least = math.lcm(gates, *(engine.vectors for engine in engines)) // gates
        whole = self.whole_units // least * least
        return max(n for n in range(least, _GROUP + 1, least) if whole % n == 0)

    def _product(self, tile: Expr, slot: Expr) -> None:
        """Compute a tile of the h-part."""

        def store(_: int, v: int, total: Expr) -> None:
            self.add(slot, _vector(self.engine, tile, v), total)

        take: Store = store
        if self.outliers is not None:
            take = self.outliers.added(tile, [lambda k: self._floats.buffer[0, k]], store)
        self.engine.multiply(tile, [T.int32(0)], take)

    def of_unit(self, unit: Expr) -> list[Expr]:
        """Where the gates of a unit stand among the packed rows."""
        lanes = self.engine.lanes
        first = unit * (self.gates_a_unit * lanes)
        return [ramp(first + v * lanes, lanes) for v in range(self.gates_a_unit)]

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


def _tiles(first: Expr, count: int, product: Callable[[Expr], None]) -> None:
    each(count, lambda i: product(first + i))


def _vector(engine: Engine, tile: Expr, v: int) -> Expr:
    """Where output vector ``v`` of a tile stands among the packed rows."""
    return ramp(tile * engine.outputs + v * engine.lanes, engine.lanes)
