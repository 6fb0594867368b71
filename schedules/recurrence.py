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

from gq_tvm.schedules.engine import OPAQUE, Engine, each

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


def recurrence(engine: Engine, hidden: int) -> tirx.PrimFunc:
    """Build ``f(gates_x, h0, c0, *operands, y, h, c)`` for any number of sequences and steps.

    Shapes: gates_x f32 [B, T, 4H] (input part and bias), h0, c0 f32 [B, H], y f32 [B, T, H], h, c
    f32 [B, H]. The engine's N is the padded ``4H`` of ``gate_order``.
    """
    lanes, math = engine.lanes, engine.math
    batch, steps = tirx.Var("batch", "int64"), tirx.Var("steps", "int64")
    whole, rest = divmod(hidden, lanes)
    vector = T.ramp(0, 1, lanes)

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
        # The last, partial tile works in scratch: no access leaves the tensors.
        edge_x = [T.alloc_buffer((lanes,), "float32") for _ in range(4 if rest else 0)]
        edge_c = T.alloc_buffer((lanes,), "float32") if rest else None
        edge_h = T.alloc_buffer((lanes,), "float32") if rest else None

        def step(b: Expr, t: Expr) -> None:
            # The previous state is staged whole before any of the new one is written.
            def load(k: Expr, width: int) -> Expr:
                return h[b, k if width == 1 else T.ramp(k, 1, width)]

            engine.stage(load, T.int32(0))

            def update(inputs: list[Expr], cell: Expr, sums: list[Expr]) -> tuple[Expr, Expr]:
                i, f, g, o = (T.bind(s + x) for s, x in zip(sums, inputs, strict=True))
                kept = math.sigmoid(f) * cell
                new_cell = T.bind(kept + math.sigmoid(i) * math.tanh(g))
                return new_cell, T.bind(math.sigmoid(o) * math.tanh(new_cell))

            def whole_tile(tile: Expr) -> None:
                sums: list[Expr] = []
                engine.multiply(tile, [T.int32(0)], lambda _r, _v, s: sums.append(T.bind(s)))
                at = T.ramp(tile * lanes, 1, lanes)
                inputs = [
                    gates_x[b, t, T.ramp(gate * hidden + tile * lanes, 1, lanes)]
                    for gate in range(4)
                ]
                new_cell, new_hidden = update(inputs, c[b, at], sums)
                T.buffer_store(c, new_cell, [b, at])
                T.buffer_store(h, new_hidden, [b, at])
                T.buffer_store(y, new_hidden, [b, t, at])

            def partial_tile() -> None:
                sums: list[Expr] = []
                tile = T.int32(whole)
                engine.multiply(tile, [T.int32(0)], lambda _r, _v, s: sums.append(T.bind(s)))
                with T.serial(0, rest) as j:
                    unit = whole * lanes + j
                    T.buffer_store(edge_c, c[b, unit], [j])
                    for gate in range(4):
                        value = gates_x[b, t, gate * hidden + unit]
                        T.buffer_store(edge_x[gate], value, [j])
                inputs = [edge[vector] for edge in edge_x]
                new_cell, new_hidden = update(inputs, edge_c[vector], sums)
                T.buffer_store(edge_c, new_cell, [vector])
                T.buffer_store(edge_h, new_hidden, [vector])
                with T.serial(0, rest) as j:
                    unit = whole * lanes + j
                    T.buffer_store(c, edge_c[j], [b, unit])
                    T.buffer_store(h, edge_h[j], [b, unit])
                    T.buffer_store(y, edge_h[j], [b, t, unit])

            each(whole, whole_tile)
            if rest:
                partial_tile()

        with T.serial(0, batch) as b:
            with T.serial(0, hidden) as j:
                T.buffer_store(h, h0[b, j], [b, j])
                T.buffer_store(c, c0[b, j], [b, j])
            for edge in [*edge_x, edge_c] if rest else []:
                T.buffer_store(edge, math.constant(0.0), [vector])
            with T.serial(0, steps) as t:
                step(b, t)
    return builder.get()
