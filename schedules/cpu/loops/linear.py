"""The loops of a linear layer around any engine: blocks of rows, tiles of outputs, the epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each, each_rows, each_tile, ramp
from gq_tvm.schedules.cpu.engine import Engine
from gq_tvm.schedules.cpu.loops.results import Results
from gq_tvm.schedules.cpu.outliers import TileOutliers
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Buffer = Any


def linear(
    engine: Engine,
    rows: int | None,
    outputs: int,
    epilogue: Epilogue | None,
    parallel: bool = False,
) -> tirx.PrimFunc:
    """Build ``f(x f32 [m, K], *operands, bias f32 [padded N], [residual], y f32 [m, outputs])``.

    Args:
        engine: Arithmetic and weight layout.
        rows: m, or None where it is known only at run time.
        outputs: Outputs after the epilogue.
        epilogue: What happens to the sums, if anything; a residual is f32 [m, outputs].
        parallel: Whether tiles are dealt out to the runtime's threads.
    """
    most = engine.schedule["block"]
    m = rows if rows is not None else tirx.Var("m", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("linear")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((m, engine.k), "float32"))
        engine.declare()
        outliers = TileOutliers.of(engine)
        if outliers is not None:
            outliers.declare()
        bias = T.arg("bias", T.buffer((engine.padded_n,), "float32"))
        residual = None
        if epilogue is not None and epilogue.residual:
            residual = T.arg("residual", T.buffer((m, outputs), "float32"))
        y = T.arg("y", T.buffer((m, outputs), "float32"))
        block = most if rows is None else max(1, min(most, rows))  # there may be no row
        engine.begin(block)
        height = min(engine.schedule["rows"], block)
        results = Results(engine, epilogue or Epilogue(), height, bias, residual, y)
        kernel = _Blocks(engine, outliers, height, results, parallel, x)
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
        outliers: TileOutliers | None,
        height: int,
        results: Results,
        parallel: bool,
        x: Buffer,
    ) -> None:
        self.engine = engine
        self.outliers = outliers
        self.height = height  # rows a tile takes at once
        self.parallel = parallel
        self.results = results
        self.x = x

    def block(self, first: Expr, count: Any) -> None:
        """Emit rows ``first`` to ``first + count``."""
        each(count, lambda slot: self.engine.stage(self._row(first + slot), slot))
        each_tile(
            self.results.whole_tiles,
            self.parallel,
            self.engine.tables,
            lambda tile: self._tile(tile, first, count, partial=False),
        )
        if self.results.rest:
            self.engine.tables()
            self._tile(T.int32(self.results.whole_tiles), first, count, partial=True)

    def _row(self, row: Expr) -> Callable[[Expr, int], Expr]:
        return lambda k, width: self.x[row, ramp(k, width)]

    def _floats(self, row: Expr) -> Callable[[Expr], Expr]:
        return lambda k: self.x[row, k]

    def _tile(self, tile: Expr, first: Expr, count: Any, partial: bool) -> None:
        each_rows(count, self.height, lambda slots: self._rows(tile, first, slots, partial))

    def _rows(self, tile: Expr, first: Expr, slots: list[Expr], partial: bool) -> None:
        rows = [first + slot for slot in slots]
        store = self.results.store(tile, rows, partial)
        if self.outliers is not None:
            store = self.outliers.added(tile, list(map(self._floats, rows)), store)
        self.engine.multiply(tile, slots, store)
        if partial:
            self.results.finish(tile, rows)
