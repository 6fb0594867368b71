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
from gq_tvm.schedules.cpu.windows import WindowReader
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.family import OPAQUE
from gq_tvm.schedules.windows import Windows

Expr = Any
Buffer = Any


def linear(
    engine: Engine,
    rows: int | None,
    outputs: int,
    epilogue: Epilogue | None,
    parallel: bool = False,
    windows: Windows | None = None,
) -> tirx.PrimFunc:
    """Build ``f(x f32 [m, K], *operands, bias f32 [padded N], [residual], y f32 [m, outputs])``.

    Args:
        engine: Arithmetic and weight layout.
        rows: m, or None where it is known only at run time.
        outputs: Outputs after the epilogue.
        epilogue: What happens to the sums, if anything; a residual is f32 [m, outputs].
        parallel: Whether tiles are dealt out to the runtime's threads.
        windows: x is f32 [B, C, 1, T], whose windows are the m = B * T' rows.
    """
    most = engine.schedule["block"]
    reader = None if windows is None else WindowReader(engine.lanes, windows)
    if reader is not None:
        m, rows = reader.batch * reader.columns, reader.of.columns.out
    else:
        m = rows if rows is not None else tirx.Var("m", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("linear")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        block = most if rows is None else max(1, min(most, rows))  # there may be no row
        source = _Matrix(m, engine.k) if reader is None else _Frames(reader, block)
        source.declare()
        engine.declare()
        outliers = TileOutliers.of(engine)
        if outliers is not None:
            outliers.declare()
        bias = T.arg("bias", T.buffer((engine.padded_n,), "float32"))
        residual = None
        if epilogue is not None and epilogue.residual:
            residual = T.arg("residual", T.buffer((m, outputs), "float32"))
        y = T.arg("y", T.buffer((m, outputs), "float32"))
        engine.begin(block)
        height = min(engine.schedule["rows"], block)
        results = Results(engine, epilogue or Epilogue(), height, bias, residual, y)
        kernel = _Blocks(engine, outliers, height, results, parallel, source)
        source.each_block(block, kernel.block)
    return builder.get()


class _Matrix:
    """Rows that lie in memory, f32 [m, K]."""

    def __init__(self, m: Any, k: int) -> None:
        self.m, self.k = m, k

    def declare(self) -> None:
        """Declare the argument."""
        self.x = T.arg("x", T.buffer((self.m, self.k), "float32"))

    def each_block(self, block: int, body: Callable[[Expr, Any], None]) -> None:
        """Emit ``body(first, count)`` for blocks of rows."""
        if isinstance(self.m, int) and self.m <= block:
            body(T.int32(0), self.m)
            return
        with T.serial(0, tirx.ceildiv(self.m, block)) as b:
            count = T.min(T.Cast("int64", block), self.m - b * block)
            body(b * block, T.bind(count))

    def load(self, row: Expr, slot: Expr, at: Expr) -> Expr:
        """Elements of a row, which is in a slot of the block."""
        return self.x[row, at]


class _Frames:
    """Rows that are windows: those of a block are copied before it."""

    def __init__(self, reader: WindowReader, block: int) -> None:
        self.reader, self.block = reader, block

    def declare(self) -> None:
        """Declare the argument, and where a block is kept."""
        self.reader.declare()

    def each_block(self, block: int, body: Callable[[Expr, Any], None]) -> None:
        """As ``_Matrix``. The last block of a sequence begins early, so that it is a whole one."""
        frames = self.reader.columns
        self.rows = T.alloc_buffer((block, self.reader.of.width), "float32")

        def read(b: Expr, first: Expr, count: Any) -> None:
            self.reader.read(
                b, 0, first, count,
                lambda slot, at, value: T.buffer_store(self.rows, value, [slot, at]),
            )  # fmt: skip
            body(T.bind(b * frames + first), count)

        with T.serial(0, self.reader.batch) as b:
            if isinstance(frames, int) and frames <= block:
                each(min(frames, 1), lambda _: read(b, T.int32(0), frames))
                return
            with T.serial(0, tirx.ceildiv(frames, block)) as i:
                last = T.max(frames - block, T.int64(0))
                first = T.bind(T.min(i * block, last))
                if isinstance(frames, int):
                    read(b, first, block)
                else:
                    read(b, first, T.bind(T.min(frames, T.int64(block))))

    def load(self, row: Expr, slot: Expr, at: Expr) -> Expr:
        """As ``_Matrix``."""
        return self.rows[slot, at]


class _Blocks:
    """Emits the product of a block of rows with all tiles."""

    def __init__(
        self,
        engine: Engine,
        outliers: TileOutliers | None,
        height: int,
        results: Results,
        parallel: bool,
        source: _Matrix | _Frames,
    ) -> None:
        self.engine = engine
        self.outliers = outliers
        self.height = height  # rows a tile takes at once
        self.parallel = parallel
        self.results = results
        self.source = source

    def block(self, first: Expr, count: Any) -> None:
        """Emit rows ``first`` to ``first + count``."""
        each(count, lambda slot: self.engine.stage(self._row(first + slot, slot), slot))
        each_tile(
            self.results.whole_tiles,
            self.parallel,
            self.engine.tables,
            lambda tile: self._tile(tile, first, count, partial=False),
        )
        if self.results.rest:
            self.engine.tables()
            self._tile(T.int32(self.results.whole_tiles), first, count, partial=True)

    def _row(self, row: Expr, slot: Expr) -> Callable[[Expr, int], Expr]:
        return lambda k, width: self.source.load(row, slot, ramp(k, width))

    def _floats(self, row: Expr, slot: Expr) -> Callable[[Expr], Expr]:
        return lambda k: self.source.load(row, slot, k)

    def _tile(self, tile: Expr, first: Expr, count: Any, partial: bool) -> None:
        each_rows(count, self.height, lambda slots: self._rows(tile, first, slots, partial))

    def _rows(self, tile: Expr, first: Expr, slots: list[Expr], partial: bool) -> None:
        rows = [first + slot for slot in slots]
        store = self.results.store(tile, rows, partial)
        if self.outliers is not None:
            store = self.outliers.added(tile, list(map(self._floats, rows, slots)), store)
        self.engine.multiply(tile, slots, store)
        if partial:
            self.results.finish(tile, rows)
