"""The loops of an LSTM's recurrence around any engine: all steps of a chunk in one kernel.

Weight rows are permuted before packing (``gate_order``), so that the 4 output vectors of a tile
are the gates i, f, g, o of the same hidden units: the cell is updated where its gates are made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.engine import Engine, each_tile
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Buffer = Any


def gate_order(hidden: int, lanes: int) -> np.ndarray:
    """Return the source row of each packed row, ``int64 [tiles * 4 * lanes]``; -1 is padding.

    PyTorch stacks the gates, ``[i; f; g; o]`` of ``hidden`` rows each.
    """
    tiles = -(-hidden // lanes)
    unit = np.arange(tiles)[:, None, None] * lanes + np.arange(lanes)[None, None, :]
    rows = np.arange(4)[None, :, None] * hidden + unit
    return np.where(unit < hidden, rows, -1).reshape(-1)


def recurrence(engine: Engine, hidden: int, parallel: bool = False) -> tirx.PrimFunc:
    """Build ``f(gates_x, h0, c0, *operands, y, h, c)`` for any number of sequences and steps.

    Shapes: gates_x f32 [B, T, 4H] (input part and bias), h0, c0 f32 [B, H], y f32 [B, T, H], h, c
    f32 [B, H]. The engine's N is the padded ``4H`` of ``gate_order``.
    """
    batch, steps = tirx.Var("batch", "int64"), tirx.Var("steps", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("recurrence")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        gates_x = T.arg("gates_x", T.buffer((batch, steps, 4 * hidden), "float32"))
        h0 = T.arg("h0", T.buffer((batch, hidden), "float32"))
        c0 = T.arg("c0", T.buffer((batch, hidden), "float32"))
        engine.declare()
        y = T.arg("y", T.buffer((batch, steps, hidden), "float32"))
        h = T.arg("h", T.buffer((batch, hidden), "float32"))
        c = T.arg("c", T.buffer((batch, hidden), "float32"))
        engine.begin(1)
        cell = _Cell(engine, hidden, parallel, gates_x, y, h, c)
        with T.serial(0, batch) as b:
            with T.serial(0, hidden) as j:
                T.buffer_store(h, h0[b, j], [b, j])
                T.buffer_store(c, c0[b, j], [b, j])
            with T.serial(0, steps) as t:
                cell.step(b, t)
    return builder.get()


class _Cell:
    """Emits one step: ``h`` and ``c`` hold the state, before and after."""

    def __init__(
        self,
        engine: Engine,
        hidden: int,
        parallel: bool,
        gates_x: Buffer,
        y: Buffer,
        h: Buffer,
        c: Buffer,
    ) -> None:
        self.engine = engine
        self.hidden = hidden
        self.parallel = parallel
        self.gates_x, self.y, self.h, self.c = gates_x, y, h, c
        self.whole_tiles, self.rest = divmod(hidden, engine.lanes)
        # The last, partial tile works in scratch: no access leaves the tensors.
        self.edges: list[Buffer] = []
        for _ in range(6 if self.rest else 0):  # i, f, g, o, c, h
            self.edges.append(T.alloc_buffer((engine.lanes,), "float32"))
            engine.write(self.edges[-1], engine.math.constant(0.0))

    def step(self, b: Expr, t: Expr) -> None:
        """Emit the step ``t`` of sequence ``b``."""

        def load(k: Expr, width: int) -> Expr:
            return self.h[b, k if width == 1 else T.ramp(k, 1, width)]

        # The previous state is staged whole before any of the new one is written.
        self.engine.stage(load, T.int32(0))
        each_tile(
            self.whole_tiles,
            self.parallel,
            self.engine.tables,
            lambda tile: self._whole_tile(b, t, tile),
        )
        if self.rest:
            self.engine.tables()
            self._partial_tile(b, t)

    def _update(self, tile: Expr, inputs: list[Expr], cell: Expr) -> tuple[Expr, Expr]:
        """Return the new cell and hidden state of a tile's units."""
        math, sums = self.engine.math, list[Expr]()
        self.engine.multiply(tile, [T.int32(0)], lambda _row, _v, s: sums.append(T.bind(s)))
        i, f, g, o = (T.bind(s + x) for s, x in zip(sums, inputs, strict=True))
        new_cell = T.bind(math.sigmoid(f) * cell + math.sigmoid(i) * math.tanh(g))
        return new_cell, T.bind(math.sigmoid(o) * math.tanh(new_cell))

    def _whole_tile(self, b: Expr, t: Expr, tile: Expr) -> None:
        lanes = self.engine.lanes
        at = T.ramp(tile * lanes, 1, lanes)
        inputs = [
            self.gates_x[b, t, T.ramp(gate * self.hidden + tile * lanes, 1, lanes)]
            for gate in range(4)
        ]
        new_cell, new_hidden = self._update(tile, inputs, self.c[b, at])
        T.buffer_store(self.c, new_cell, [b, at])
        T.buffer_store(self.h, new_hidden, [b, at])
        T.buffer_store(self.y, new_hidden, [b, t, at])

    def _partial_tile(self, b: Expr, t: Expr) -> None:
        engine, first = self.engine, self.whole_tiles * self.engine.lanes
        *gates, cell, hidden = self.edges
        with T.serial(0, self.rest) as j:
            T.buffer_store(cell, self.c[b, first + j], [j])
            for gate, edge in enumerate(gates):
                T.buffer_store(edge, self.gates_x[b, t, gate * self.hidden + first + j], [j])
        inputs = [engine.read(edge) for edge in gates]
        tile = T.int32(self.whole_tiles)
        new_cell, new_hidden = self._update(tile, inputs, engine.read(cell))
        engine.write(cell, new_cell)
        engine.write(hidden, new_hidden)
        with T.serial(0, self.rest) as j:
            T.buffer_store(self.c, cell[j], [b, first + j])
            T.buffer_store(self.h, hidden[j], [b, first + j])
            T.buffer_store(self.y, hidden[j], [b, t, first + j])
