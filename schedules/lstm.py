"""The loops of an LSTM layer around two engines: both products, gates and state in one kernel.

Weight rows are permuted before packing (``gate_order``): 4 output vectors in a row are the gates
i, f, g, o of the same *unit*, a vector of hidden states. The x-part of a block of frames is one
product over all of them; only the h-part has to wait for the step before. Where there is one frame
a call, both parts are computed in turn, group by group: threads are set going once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.engine import Engine, each, each_rows, each_tile
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Buffer = Any

_GATES = 4
_GROUP = 8  # most units whose cells are updated together


def gate_order(hidden: int, lanes: int) -> np.ndarray:
    """Return the source row of each packed row, ``int64 [units * 4 * lanes]``; -1 is padding.

    PyTorch stacks the gates, ``[i; f; g; o]`` of ``hidden`` rows each.
    """
    units = -(-hidden // lanes)
    state = np.arange(units)[:, None, None] * lanes + np.arange(lanes)[None, None, :]
    rows = np.arange(_GATES)[None, :, None] * hidden + state
    return np.where(state < hidden, rows, -1).reshape(-1)


def lstm(
    x_part: Engine, h_part: Engine, hidden: int, steps: int | None, parallel: bool = False
) -> tirx.PrimFunc:
    """Build ``f(x, h0, c0, *x operands, *h operands, bias, y, h, c)`` for any number of sequences.

    Shapes: x f32 [B, T, I], h0, c0 f32 [B, H], bias f32 [padded 4H] in the order of the packed
    rows, y f32 [B, T, H], h, c f32 [B, H].

    Args:
        x_part: Arithmetic and weight layout of the input product: N = the padded ``4H`` of
            ``gate_order``, K = I.
        h_part: Those of the recurrent product: the same with K = H.
        hidden: H.
        steps: T, or None where it is known only at run time.
        parallel: Whether tiles are dealt out to the runtime's threads.
    """
    batch = tirx.Var("batch", "int64")
    frames = steps if steps is not None else tirx.Var("steps", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("lstm")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, frames, x_part.k), "float32"))
        h0 = T.arg("h0", T.buffer((batch, hidden), "float32"))
        c0 = T.arg("c0", T.buffer((batch, hidden), "float32"))
        x_part.declare()
        h_part.declare()
        bias = T.arg("bias", T.buffer((x_part.padded_n,), "float32"))
        y = T.arg("y", T.buffer((batch, frames, hidden), "float32"))
        h = T.arg("h", T.buffer((batch, hidden), "float32"))
        c = T.arg("c", T.buffer((batch, hidden), "float32"))
        most = x_part.schedule.block if steps is None else min(x_part.schedule.block, steps)
        x_part.begin(max(1, most))  # there may be no step
        h_part.begin(1)
        gates = T.alloc_buffer((max(1, most), max(x_part.padded_n, h_part.padded_n)), "float32")
        inputs = _Inputs(x_part, parallel, x, bias, gates)
        cell = _Cell(h_part, hidden, parallel, gates, y, h, c)
        with T.serial(0, batch) as b:
            if steps == 1:
                inputs.stage(b, 0, 1)
                cell.step(b, T.int32(0), T.int32(0), h0, c0, inputs)
            else:
                with T.serial(0, hidden) as j:
                    T.buffer_store(h, h0[b, j], [b, j])
                    T.buffer_store(c, c0[b, j], [b, j])
                if steps == most:
                    _block(inputs, cell, b, 0, steps)
                else:
                    with T.serial(0, tirx.ceildiv(frames, most)) as i:
                        count = T.bind(T.min(T.Cast("int64", most), frames - i * most))
                        _block(inputs, cell, b, i * most, count)
    return builder.get()


def _block(inputs: _Inputs, cell: _Cell, b: Expr, first: Any, count: Any) -> None:
    """Emit the steps ``first`` to ``first + count`` of sequence ``b``."""
    inputs.stage(b, first, count)
    inputs.products(count)
    each(count, lambda slot: cell.step(b, first + slot, slot, cell.h, cell.c))


class _Inputs:
    """Emits the x-part of the gates, bias included."""

    def __init__(self, engine: Engine, parallel: bool, x: Buffer, bias: Buffer, gates: Buffer):
        self.engine = engine
        self.parallel = parallel
        self.x, self.bias, self.gates = x, bias, gates

    def stage(self, b: Expr, first: Any, count: Any) -> None:
        """Stage the frames ``first`` to ``first + count`` of sequence ``b``."""

        def frame(t: Expr) -> Callable[[Expr, int], Expr]:
            return lambda k, width: self.x[b, t, k if width == 1 else T.ramp(k, 1, width)]

        each(count, lambda slot: self.engine.stage(frame(first + slot), slot))

    def products(self, count: Any) -> None:
        """Compute the gates of the staged frames, a tile of weights with all of them at once."""
        height = self.engine.schedule.rows

        def tile(tile: Expr) -> None:
            each_rows(count, height, lambda slots: self.product(tile, slots))

        each_tile(self.engine.tiles, self.parallel, self.engine.tables, tile)

    def product(self, tile: Expr, slots: list[Expr]) -> None:
        """Compute a tile of the gates of some staged frames."""

        def store(row: int, v: int, total: Expr) -> None:
            at = _vector(self.engine, tile, v)
            T.buffer_store(self.gates, total + self.bias[at], [slots[row], at])

        self.engine.multiply(tile, slots, store)


class _Cell:
    """Emits a step: the h-part of the gates, the new cell and hidden state."""

    def __init__(
        self,
        engine: Engine,
        hidden: int,
        parallel: bool,
        gates: Buffer,
        y: Buffer,
        h: Buffer,
        c: Buffer,
    ) -> None:
        self.engine = engine
        self.parallel = parallel
        self.gates, self.y, self.h, self.c = gates, y, h, c
        self.whole_units, self.rest = divmod(hidden, engine.lanes)

    def step(
        self,
        b: Expr,
        t: Expr,
        slot: Expr,
        old_h: Buffer,
        old_c: Buffer,
        inputs: _Inputs | None = None,
    ) -> None:
        """Emit step ``t`` of sequence ``b``, from the state in ``old_h`` and ``old_c``.

        The x-part is in slot ``slot``, or, if ``inputs`` are given, still to be computed.
        """
        parts: list[tuple[Engine, Callable[[Expr], None]]] = []
        if inputs is not None:
            parts.append((inputs.engine, lambda tile: inputs.product(tile, [slot])))
        parts.append((self.engine, lambda tile: self._product(tile, slot)))

        def load(k: Expr, width: int) -> Expr:
            return old_h[b, k if width == 1 else T.ramp(k, 1, width)]

        def tables() -> None:
            for engine, _ in parts:
                engine.tables()

        def cells(first: Expr, count: int, partial: bool = False) -> None:
            """Each is a chain of operations: several side by side fill the CPU."""
            each(count, lambda i: self._new_cell(b, slot, first + i, old_c, partial))
            each(count, lambda i: self._new_hidden(b, t, slot, first + i, partial))

        def group(index: Expr) -> None:
            for engine, product in parts:
                count = units * _GATES // engine.vectors
                _tiles(index * count, count, product)
            cells(index * units, units)

        # The previous state is staged whole before any of the new one is written.
        self.engine.stage(load, T.int32(0))
        units = self._group([engine for engine, _ in parts])
        groups = self.whole_units // units
        each_tile(groups, self.parallel, tables, group)
        if groups * units < self.whole_units or self.rest:  # what is left: part of a group
            tables()
            for engine, product in parts:
                first = groups * units * _GATES // engine.vectors
                _tiles(T.int32(first), engine.tiles - first, product)
            cells(T.int32(groups * units), self.whole_units - groups * units)
            if self.rest:
                cells(T.int32(self.whole_units), 1, partial=True)

    def _group(self, engines: list[Engine]) -> int:
        """Units of a group: whole tiles of each engine, and groups that leave little over."""
        least = max(1, *(engine.vectors // _GATES for engine in engines))
        whole = self.whole_units // least * least
        return max(n for n in range(least, _GROUP + 1, least) if whole % n == 0)

    def _product(self, tile: Expr, slot: Expr) -> None:
        """Add the h-part to a tile of gates."""

        def store(_: int, v: int, total: Expr) -> None:
            at = _vector(self.engine, tile, v)
            T.buffer_store(self.gates, self.gates[slot, at] + total, [slot, at])

        self.engine.multiply(tile, [T.int32(0)], store)

    def _new_cell(self, b: Expr, slot: Expr, unit: Expr, old_c: Buffer, partial: bool) -> None:
        """``c = sigmoid(f) c + sigmoid(i) tanh(g)``."""
        math, (i, f, g, _) = self.engine.math, self._gates(slot, unit)
        old = self._load(old_c, [b], unit, partial)
        new = old / math.sigmoid_divisor(f) + math.sigmoid_tanh(i, g)
        self._store(self.c, new, [b], unit, partial)

    def _new_hidden(self, b: Expr, t: Expr, slot: Expr, unit: Expr, partial: bool) -> None:
        """``h = sigmoid(o) tanh(c)``."""
        *_, o = self._gates(slot, unit)
        new = self.engine.math.sigmoid_tanh(o, self._load(self.c, [b], unit, partial))
        new = T.bind(new)
        self._store(self.h, new, [b], unit, partial)
        self._store(self.y, new, [b, t], unit, partial)

    def _gates(self, slot: Expr, unit: Expr) -> list[Expr]:
        lanes = self.engine.lanes
        return [
            self.gates[slot, T.ramp(unit * (_GATES * lanes) + v * lanes, 1, lanes)]
            for v in range(_GATES)
        ]

    # Where a unit is partial, no access leaves the tensors: lanes are masked.

    def _load(self, buffer: Buffer, row: list[Expr], unit: Expr, partial: bool) -> Expr:
        at = T.ramp(unit * self.engine.lanes, 1, self.engine.lanes)
        if not partial:
            return buffer[(*row, at)]
        dtype = f"float32x{self.engine.lanes}"
        return tirx.op.masked_load(dtype, buffer, *row, at, self._mask())

    def _store(
        self, buffer: Buffer, value: Expr, row: list[Expr], unit: Expr, partial: bool
    ) -> None:
        at = T.ramp(unit * self.engine.lanes, 1, self.engine.lanes)
        if partial:
            T.evaluate(tirx.op.masked_store(buffer, value, *row, at, self._mask()))
        else:
            T.buffer_store(buffer, value, [*row, at])

    def _mask(self) -> Expr:
        lanes = self.engine.lanes
        return T.ramp(0, 1, lanes) < T.broadcast(T.int32(self.rest), lanes)


def _tiles(first: Expr, count: int, product: Callable[[Expr], None]) -> None:
    each(count, lambda i: product(first + i))


def _vector(engine: Engine, tile: Expr, v: int) -> Expr:
    """Where output vector ``v`` of a tile stands among the packed rows."""
    return T.ramp(tile * engine.outputs + v * engine.lanes, 1, engine.lanes)
