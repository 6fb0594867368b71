"""The loops of a linear layer around any engine: blocks of rows, tiles of outputs, the epilogue."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.engine import OPAQUE, Engine, each

Expr = Any

#: Rows staged at once: a block of activations stays in L1 while all weights pass by.
BLOCK = 16


def linear(engine: Engine, rows: int | None, epilogue: str | None) -> tirx.PrimFunc:
    """Build ``f(x f32 [m, K], *operands, bias f32 [padded N], y f32 [m, N])``.

    Args:
        engine: Arithmetic and weight layout.
        rows: m, or None where it is known only at run time.
        epilogue: One of ``vector_math.EPILOGUES``, or None.
    """
    n, lanes, outputs = engine.n, engine.lanes, engine.outputs
    m = rows if rows is not None else tirx.Var("m", "int64")
    block = BLOCK if rows is None else min(BLOCK, rows)
    finish = engine.math.epilogue(epilogue)
    whole_tiles, rest = divmod(n, outputs)

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("linear")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((m, engine.k), "float32"))
        engine.declare()
        bias = T.arg("bias", T.buffer((engine.padded_n,), "float32"))
        y = T.arg("y", T.buffer((m, n), "float32"))
        engine.begin(block)
        edge = T.alloc_buffer((engine.tile_rows, outputs), "float32") if rest else None

        def run_block(first: Expr, count: Expr) -> None:
            def load_row(row: Expr) -> Any:
                return lambda k, width: x[row, k if width == 1 else T.ramp(k, 1, width)]

            each(count, lambda slot: engine.stage(load_row(first + slot), slot))

            def run_tile(tile: Expr, partial: bool) -> None:
                def run_rows(slot: Expr, height: int) -> None:
                    slots = [slot + r for r in range(height)]

                    def store(row: int, v: int, value: Expr) -> None:
                        at = T.ramp(tile * outputs + v * lanes, 1, lanes)
                        result = finish(value + bias[at])
                        if partial:
                            T.buffer_store(edge, result, [row, T.ramp(v * lanes, 1, lanes)])
                        else:
                            T.buffer_store(y, result, [first + slots[row], at])

                    engine.multiply(tile, slots, store)
                    if partial:
                        for row in range(height):
                            with T.serial(0, rest) as j:
                                T.buffer_store(
                                    y, edge[row, j], [first + slots[row], tile * outputs + j]
                                )

                _rows_in_steps(count, min(engine.tile_rows, block), run_rows)

            each(whole_tiles, lambda tile: run_tile(tile, partial=False))
            if rest:
                run_tile(T.int32(whole_tiles), partial=True)

        if rows is not None and rows <= BLOCK:
            run_block(T.int32(0), rows)
        else:
            with T.serial(0, tirx.ceildiv(m, BLOCK)) as b:
                run_block(b * BLOCK, T.bind(T.min(T.Cast("int64", BLOCK), m - b * BLOCK)))
    return builder.get()


def _rows_in_steps(count: Any, step: int, run: Any) -> None:
    """Call ``run(first row, height)`` over ``count`` rows: steps of ``step``, then single rows."""
    if step == 1:
        each(count, lambda row: run(row, 1))
        return
    if isinstance(count, int):
        each(count // step, lambda i: run(i * step, step))
        for row in range(count // step * step, count):
            run(T.int32(row), 1)
        return
    each(count // step, lambda i: run(i * step, step))
    each(count % step, lambda i: run(count // step * step + i, 1))
