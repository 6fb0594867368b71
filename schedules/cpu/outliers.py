"""How kernels add a weight's outliers: what is kept of them, and the loops that read it.

An outlier is a column, an output and a value, 5 bytes where the value has 16 bits. Kernels that
multiply (`TileOutliers`) keep those of a tile of outputs together, in the order of their columns:
before a tile is multiplied their products with the fp32 activations are added up, a sum for each
output and row, and go to what the indices give. Kernels that look weights up (`RowOutliers`) keep
those of a row together and add them to the floats of that row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.ops.weight import Outliers, Weight
from gq_tvm.schedules.cpu.emit import each, ramp
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.cpu.vector_math import SCALAR_MATH
from gq_tvm.schedules.family import Product

Expr = Any
Buffer = Any


def _column_type(width: int) -> str:
    return "uint16" if width <= 2**16 else "int32"


class TileOutliers:
    """The outliers of a weight that an engine multiplies by, tile by tile.

    Operands: ``outlier_starts`` i32 [tiles + 1], ``outlier_columns`` u16 (i32 of a row of more than
    65,536) [E], ``outlier_outputs`` u8 [E], places in the tile, and ``outlier_values`` [E]. The
    entries of a tile are filled up to whole vectors; starts count vectors, and what fills up goes
    to an output that is not there.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lanes = engine.lanes
        self.dtype = engine.product.outliers

    @staticmethod
    def of(engine: Engine) -> TileOutliers | None:
        """Those of an engine's weight, None if it has none."""
        return TileOutliers(engine) if engine.product.outliers else None

    def operands(
        self, outliers: Outliers, width: int, order: NDArray[np.int64] | None
    ) -> dict[str, NDArray]:
        """Lay outliers out.

        Args:
            outliers: Those of a weight [N, K].
            width: K.
            order: The source row of each packed row, -1 for padding; None if they are in order.
        """
        rows, columns = np.divmod(outliers.positions, width)
        if order is not None:
            place = np.zeros(order.max() + 1, np.int64)
            place[order[order >= 0]] = np.flatnonzero(order >= 0)
            rows = place[rows]
        tiles, outputs = np.divmod(rows, self.engine.outputs)
        by_tile = np.lexsort((columns, tiles))
        counts = np.bincount(tiles, minlength=self.engine.tiles)
        starts = np.concatenate([[0], np.cumsum(-(-counts // self.lanes))])
        first = np.cumsum(counts) - counts
        in_order = tiles[by_tile]
        at = starts[in_order] * self.lanes + np.arange(len(rows)) - first[in_order]
        entries = starts[-1] * self.lanes

        def laid_out(values: NDArray, dtype: str, filling: int) -> NDArray:
            made = np.full(entries, filling, dtype)
            made[at] = values[by_tile]
            return made

        return {
            "outlier_starts": starts.astype(np.int32),
            "outlier_columns": laid_out(columns, _column_type(width), 0),
            "outlier_outputs": laid_out(outputs, "uint8", self.engine.outputs),
            "outlier_values": laid_out(outliers.values, self.dtype, 0),
        }

    def declare(self) -> None:
        """Declare the operands as arguments, in their order."""
        entries = tirx.Var("outliers", "int64")
        shape, columns = (entries,), _column_type(self.engine.k)
        self._starts = T.arg("outlier_starts", T.buffer((self.engine.tiles + 1,), "int32"))
        self._columns = T.arg("outlier_columns", T.buffer(shape, columns))
        self._outputs = T.arg("outlier_outputs", T.buffer(shape, "uint8"))
        self._values = T.arg("outlier_values", T.buffer(shape, self.dtype))

    def added(self, tile: Expr, rows: Sequence[Callable[[Expr], Expr]], store: Store) -> Store:
        """Emit the sums of a tile for some rows; give what adds them to what ``store`` is passed.

        Args:
            tile: Which.
            rows: Each reads the fp32 activation of a column.
            store: Takes the results of the tile.
        """
        engine, lanes, math = self.engine, self.lanes, self.engine.math
        stride = engine.outputs + lanes  # behind them that of what fills up
        sums = T.alloc_buffer((len(rows), stride), "float32")
        values = T.alloc_buffer((lanes,), "float32")
        for row in range(len(rows)):
            for v in range(engine.vectors):
                T.buffer_store(sums, math.constant(0.0), [row, ramp(v * lanes, lanes)])
        first = T.bind(self._starts[tile])

        def entry(at: Expr, i: int) -> None:
            column = T.bind(T.cast(self._columns[at + i], "int32"))
            output = T.bind(T.cast(self._outputs[at + i], "int32"))
            for row, load in enumerate(rows):
                product = SCALAR_MATH.rounded(values[i] * load(column))
                T.buffer_store(sums, sums[row, output] + product, [row, output])

        with T.serial(0, self._starts[tile + 1] - first) as number:
            at = T.bind((first + number) * lanes)
            widened = math.widened(self._values[ramp(at, lanes)], self.dtype)
            T.buffer_store(values, widened, [ramp(0, lanes)])
            for i in range(lanes):
                entry(at, i)

        def with_sums(row: int, v: int, value: Expr) -> None:
            store(row, v, math.rounded(value) + sums[row, ramp(v * lanes, lanes)])

        return with_sums


class RowOutliers:
    """The outliers of a weight whose rows are looked up, row by row.

    Operands: ``outlier_starts`` i32 [N + 1], ``outlier_columns`` u16 (i32 of a row of more than
    65,536) [M] and ``outlier_values`` [M].
    """

    def __init__(self, product: Product) -> None:
        """Declare the operands as arguments, in their order."""
        entries = tirx.Var("outliers", "int64")
        self.dtype = product.outliers
        self._starts = T.arg("outlier_starts", T.buffer((product.n + 1,), "int32"))
        columns = _column_type(product.k)
        self._columns = T.arg("outlier_columns", T.buffer((entries,), columns))
        self._values = T.arg("outlier_values", T.buffer((entries,), self.dtype))

    @staticmethod
    def operands(weight: Weight) -> dict[str, NDArray]:
        """Lay a weight's outliers out; nothing if it has none."""
        if weight.outliers is None:
            return {}
        rows, columns = np.divmod(weight.outliers.positions, weight.width)
        starts = np.searchsorted(rows, np.arange(weight.rows + 1))
        return {
            "outlier_starts": starts.astype(np.int32),
            "outlier_columns": columns.astype(_column_type(weight.width)),
            "outlier_values": weight.outliers.values,
        }

    def add(self, row: Expr, buffer: Buffer, place: Callable[[Expr], list[Expr]]) -> None:
        """Emit the addition of a row's outliers to the elements ``place(column)`` of a buffer."""
        first = T.bind(self._starts[row])

        def entry(number: Expr) -> None:
            at = T.bind(first + number)
            to = place(T.bind(T.cast(self._columns[at], "int32")))
            value = SCALAR_MATH.widened(self._values[at], self.dtype)
            T.buffer_store(buffer, buffer[tuple(to)] + value, to)

        each(self._starts[row + 1] - first, entry)
