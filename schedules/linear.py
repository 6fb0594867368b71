"""The loops of a linear layer around any engine: blocks of rows, tiles of outputs, the epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.engine import Engine, each, each_rows, each_tile
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Buffer = Any


def linear(
    engine: Engine, rows: int | None, epilogue: str | None, parallel: bool = False
) -> tirx.PrimFunc:
    """Build ``f(x f32 [m, K], *operands, bias f32 [padded N], y f32 [m, N])``.

    Args:
        engine: Arithmetic and weight layout.
        rows: m, or None where it is known only at run time.
        epilogue: One of ``vector_math.EPILOGUES``, or None.
        parallel: Whether tiles are dealt out to the runtime's threads.
    """
    most = engine.schedule.block
    m = rows if rows is not None else tirx.Var("m", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("linear")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((m, engine.k), "float32"))
        engine.declare()
        bias = T.arg("bias", T.buffer((engine.padded_n,), "float32"))
        y = T.arg("y", T.buffer((m, engine.n), "float32"))
        block = most if rows is None else max(1, min(most, rows))  # there may be no row
        engine.begin(block)
        kernel = _Blocks(engine, min(engine.schedule.rows, block), epilogue, parallel, x, bias, y)
        if rows is not None and rows <= most:
            kernel.block(T.int32(0), rows)
        else:
            with T.serial(0, tirx.ceildiv(m, most)) as b:
                count = T.min(T.Cast("int64", most), m - b * most)
                kernel.block(b * most, T.bind(count))
    return builder.get()


class _Blocks:
    """Emits the product of a block of rows with all tiles."""

    def __init__(
        self,
        engine: Engine,
        height: int,
        epilogue: str | None,
        parallel: bool,
        x: Buffer,
        bias: Buffer,
        y: Buffer,
    ) -> None:
        self.engine = engine
        self.height = height  # rows a tile takes at once
        self.parallel = parallel
        self.finish = engine.math.epilogue(epilogue)
        self.x, self.bias, self.y = x, bias, y
        self.whole_tiles, self.rest = divmod(engine.n, engine.outputs)
        # The last, partial tile is finished in scratch: no store leaves the output.
        self.edge: Buffer = None
        if self.rest:
            self.edge = T.alloc_buffer((height, engine.outputs), "float32")

    def block(self, first: Expr, count: Any) -> None:
        """Emit rows ``first`` to ``first + count``."""
        each(count, lambda slot: self.engine.stage(self._row(first + slot), slot))
        each_tile(
            self.whole_tiles,
            self.parallel,
            self.engine.tables,
            lambda tile: self._tile(tile, first, count, partial=False),
        )
        if self.rest:
            self.engine.tables()
            self._tile(T.int32(self.whole_tiles), first, count, partial=True)

    def _row(self, row: Expr) -> Callable[[Expr, int], Expr]:
        return lambda k, width: self.x[row, k if width == 1 else T.ramp(k, 1, width)]

    def _tile(self, tile: Expr, first: Expr, count: Any, partial: bool) -> None:
        each_rows(count, self.height, lambda slots: self._rows(tile, first, slots, partial))

    def _rows(self, tile: Expr, first: Expr, slots: list[Expr], partial: bool) -> None:
        lanes, outputs = self.engine.lanes, self.engine.outputs

        def store(row: int, v: int, value: Expr) -> None:
            at = T.ramp(tile * outputs + v * lanes, 1, lanes)
            result = self.finish(value + self.bias[at])
            if partial:
                T.buffer_store(self.edge, result, [row, T.ramp(v * lanes, 1, lanes)])
            else:
                T.buffer_store(self.y, result, [first + slots[row], at])

        self.engine.multiply(tile, slots, store)
        for row, slot in enumerate(slots if partial else []):
            with T.serial(0, self.rest) as j:
                T.buffer_store(self.y, self.edge[row, j], [first + slot, tile * outputs + j])
