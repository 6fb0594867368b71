"""The loops of a recurrent layer around its engines: products, gates and state in one kernel.

What a step does with its products is the cell's (``cells.py``). Weight rows are permuted
before packing (``gate_order``): the output vectors in a row are the gates of the same *unit*, a
vector of hidden states; an LSTM has 4 (i, f, g, o), a GRU 3 (r, z, n). The x-part of a block of
frames is one product over all of them; only the h-part has to wait for the step before. Where there
is one frame a call, both parts are computed in turn, group by group: threads are set going once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.ops.checks_recurrent import functions_of
from gq_tvm.schedules.cpu.emit import each, each_rows, each_tile, ramp
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.cpu.loops.cell import (
    Cell,
    Functions,
    Multiplied,
    Parts,
    Step,
    vector_of,
)
from gq_tvm.schedules.cpu.outliers import TileOutliers
from gq_tvm.schedules.family import OPAQUE, Frames

Expr = Any
Buffer = Any


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
    engines: Sequence[Engine],
    hidden: int,
    frames: Frames,
    parallel: bool = False,
    functions: str = "",
    clip: float = 0.0,
) -> tirx.PrimFunc:
    """Build the kernel of a layer for any number of sequences.

    Its arguments: x f32 [B, T, I], each part of the old state (h f32 [B, P], c f32 [B, H]), the
    operands of each engine, the biases f32 [padded gates * H]
    in the order of the packed rows, lengths i64 [B] if there are any, and the outputs y f32
    [B, T, P] and each part of the new state. A length that is none of x counts as the nearest.

    Args:
        kind: What a step does, and how many gates, parts of the state and biases it has.
        engines: Arithmetic and weight layout of the input product (N = the padded gates of
            ``gate_order``, K = I), of the recurrent product (its gates, K = P), and of the one
            behind the gates where the cell has one.
        hidden: H.
        frames: Which frames there are, in which order.
        parallel: Whether tiles are dealt out to the runtime's threads.
        functions: The cell's activation functions, "" for the usual ones.
        clip: See ``ops.reference_recurrent``.
    """
    x_part, h_part = engines[:2]
    batch, steps = tirx.Var("batch", "int64"), frames.steps
    most_frames = steps if steps is not None else tirx.Var("steps", "int64")
    sizes = dict(zip(kind.states, (h_part.k, hidden), strict=False))

    def state(suffix: str) -> list[Buffer]:
        made = (T.buffer((batch, size), "float32") for size in sizes.values())
        return [T.arg(f"{name}{suffix}", one) for name, one in zip(sizes, made, strict=True)]

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(kind.name)
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, most_frames, x_part.k), "float32"))
        old = state("0")
        outliers = []
        for engine in engines:
            engine.declare()
            outliers.append(TileOutliers.of(engine))
            if outliers[-1] is not None:
                outliers[-1].declare()
        padded = (x_part.padded_n, h_part.padded_n)[: kind.biases]
        biases = [
            T.arg(f"bias{i or ''}", T.buffer((size,), "float32")) for i, size in enumerate(padded)
        ]
        lengths = T.arg("lengths", T.buffer((batch,), "int64")) if frames.lengths else None
        y = T.arg("y", T.buffer((batch, most_frames, h_part.k), "float32"))
        new = state("")
        most = x_part.schedule["block"]
        if steps is not None:
            most = min(most, steps)
        x_part.begin(max(1, most))  # there may be no step
        for engine in engines[1:]:
            engine.begin(1)
        gates = T.alloc_buffer((max(1, most), max(x_part.padded_n, h_part.padded_n)), "float32")
        own = Functions(h_part.math, functions_of(kind.name, functions), clip)
        products = [Multiplied(*one) for one in zip(engines, outliers, strict=True)]
        cell = kind(
            Parts(
                products[1], products[2] if len(products) > 2 else None, own, hidden, parallel,
                gates, y, new, biases[1:],
            )
        )  # fmt: skip
        with T.serial(0, batch) as b:
            count = most_frames
            if lengths is not None:
                limit = T.Cast("int64", most_frames)
                count = T.bind(T.max(T.Cast("int64", 0), T.min(lengths[b], limit)))
            order = _Order(count, frames.reverse)
            inputs = _Inputs(x_part, outliers[0], parallel, x, biases[0], gates, order)
            if steps == 1 and lengths is None:
                inputs.stage(b, 0, 1)
                cell.step(Step(b, T.int32(0), T.int32(0), old), inputs)
            else:
                for before, after, size in zip(old, new, sizes.values(), strict=True):
                    with T.serial(0, size) as j:
                        T.buffer_store(after, before[b, j], [b, j])
                if steps == most and lengths is None:
                    _block(inputs, cell, b, 0, steps)
                else:
                    with T.serial(0, tirx.ceildiv(count, most)) as i:
                        here = T.bind(T.min(T.Cast("int64", most), count - i * most))
                        _block(inputs, cell, b, i * most, here)
            if lengths is not None:
                with T.serial(0, most_frames - count) as t, T.serial(0, h_part.k) as j:
                    T.buffer_store(y, T.float32(0), [b, count + t, j])
    return builder.get()


def _block(inputs: _Inputs, cell: Cell, b: Expr, first: Any, count: Any) -> None:
    """Emit the steps ``first`` to ``first + count`` of sequence ``b``."""
    inputs.stage(b, first, count)
    inputs.products(count)

    def step(slot: Expr) -> None:
        cell.step(Step(b, inputs.order.frame(first + slot), slot, cell.state))

    each(count, step)


class _Order:
    """The frame of each step."""

    def __init__(self, count: Any, reverse: bool) -> None:
        self.count, self.reverse = count, reverse

    def frame(self, step: Any) -> Any:
        return self.count - 1 - step if self.reverse else step


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
        order: _Order,
    ) -> None:
        self.engine = engine
        self.outliers = outliers
        self.parallel = parallel
        self.x, self.bias, self.gates, self.order = x, bias, gates, order

    def stage(self, b: Expr, first: Any, count: Any) -> None:
        """Stage the frames of the steps ``first`` to ``first + count`` of sequence ``b``."""

        def frame(slot: Expr) -> Callable[[Expr, int], Expr]:
            t = self.order.frame(first + slot)
            return lambda k, width: self.x[b, t, ramp(k, width)]

        self._floats = lambda slot: lambda k: self.x[b, self.order.frame(first + slot), k]
        each(count, lambda slot: self.engine.stage(frame(slot), slot))

    def products(self, count: Any) -> None:
        """Compute the gates of the staged frames, a tile of weights with all of them at once."""
        height = self.engine.schedule["rows"]

        def tile(tile: Expr) -> None:
            each_rows(count, height, lambda slots: self.product(tile, slots))

        each_tile(self.engine.tiles, self.parallel, self.engine.tables, tile)

    def product(self, tile: Expr, slots: list[Expr]) -> None:
        """Compute a tile of the gates of some staged frames."""

        def store(row: int, v: int, total: Expr) -> None:
            at = vector_of(self.engine, tile, v)
            T.buffer_store(self.gates, total + self.bias[at], [slots[row], at])

        take: Store = store
        if self.outliers is not None:
            take = self.outliers.added(tile, list(map(self._floats, slots)), store)
        self.engine.multiply(tile, slots, take)
