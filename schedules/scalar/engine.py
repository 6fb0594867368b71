"""The arithmetic of the family without vector instructions: one weight at a time.

Weights are packed row by row, n bits an index, least significant bit first; each row starts at a
byte, and one spare byte at the end lets every index be read as part of two bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.cpu.instruction_sets.base import Lanes
from gq_tvm.schedules.cpu.staging.float_rows import FloatRows
from gq_tvm.schedules.cpu.staging.group_sums import group_sums
from gq_tvm.schedules.cpu.staging.int8 import stage_int8
from gq_tvm.schedules.cpu.staging.planes import stage_levels
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.scalar.rows import index_at, pack_rows, row_bytes
from gq_tvm.schedules.schedule import Schedule

Expr = Any


class ScalarEngine(Engine):
    """Every product: rows of integers exactly as ``ops.reference`` has them, tables of any kind."""

    def __init__(self, isa: Lanes, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self.float = product.activation == "fp32"
        self.element, self.sum = ("float32", "float32") if self.float else ("int8", "int32")

    @classmethod
    def supports(cls, isa: Lanes, product: Product) -> bool:
        return True

    @classmethod
    def space(cls, isa: Lanes, product: Product) -> list[Schedule]:
        return [Schedule()]

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        rows = np.pad(indices, ((0, self.padded_n - len(indices)), (0, 0)))
        made = {
            "weights": pack_rows(rows, self.bits),
            "table": np.ascontiguousarray(levels.table).reshape(-1),
        }
        if self.product.tables > 1:
            first = levels.of_row * levels.table.shape[1]
            made["first"] = np.pad(first, (0, len(rows) - len(first))).astype(np.int32)
        return made | self.pack_scales(levels)

    def declare(self) -> None:
        size = self.padded_n * row_bytes(self.k, self.bits) + 1
        entries = (self.product.tables or self.product.groups) * 2**self.bits
        self._weights = T.arg("weights", T.buffer((size,), "uint8"))
        self._table = T.arg("table", T.buffer((entries,), self.element))
        if self.product.tables > 1:
            self._first = T.arg("first", T.buffer((self.padded_n,), "int32"))
        self.declare_scales()

    def begin(self, rows: int) -> None:
        if self.float:
            self._staged = FloatRows(self.k, self.k, 1)
            self._staged.begin(rows)
            self._rows = self._staged.buffer
        else:
            self._rows = T.alloc_buffer((rows, self.k), "int8")
            self._row_scale = T.alloc_buffer((rows,), "float32")
        if self.product.zero:
            self._group_sum = T.alloc_buffer((rows, self.product.groups), "float32")

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        def row(k: Expr, value: Expr) -> None:
            T.buffer_store(self._rows, value, [slot, k])

        def scale(value: Expr) -> None:
            T.buffer_store(self._row_scale, value, [slot])

        if self.float:
            self._staged.stage(load, slot)
        elif self.product.activation == "int8":
            stage_int8(load, self.k, self.math, row, scale, total=None)
        else:
            stage_levels(load, self.k, self.product.activation, row, scale)
        if self.product.zero:
            group_sums(
                self.product,
                lambda k: self._rows[slot, k],
                self.sum,
                lambda group, value: T.buffer_store(
                    self._group_sum, T.cast(value, "float32"), [slot, group]
                ),
            )

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        size = self.product.group or self.k
        sums = self.accumulators(len(slots), self.sum)
        totals = self.accumulators(len(slots), "float32") if self.product.parted else sums

        def group(number: Expr, count: int) -> None:
            each(count, lambda i: self._products(tile, number, number * size + i, slots, sums))
            if self.product.parted:
                self._add_group(tile, number, slots, sums, totals)

        whole, rest = divmod(self.k, size)
        each(whole, lambda number: group(number, size))
        if rest:
            group(T.int32(whole), rest)
        for row, slot in enumerate(slots):
            for v in range(self.vectors):
                store(row, v, self._scaled(tile, v, slot, self.read(totals[row][v][0])))

    def table_of(self, tile: Expr, group: Expr, v: int) -> Expr:
        if self.product.tables > 1:
            return self._first[tile * self.vectors + v] // T.int32(2**self.bits)
        return group if self.product.tables == 0 else T.int32(0)

    def _products(self, tile: Expr, group: Expr, k: Expr, slots: Sequence[Expr], sums: Any) -> None:
        """Emit the products of a weight of each output with all rows."""
        for v in range(self.vectors):
            output = tile * self.vectors + v
            index = index_at(self._weights, output, k, self.k, self.bits)
            if self.product.tables > 1:
                index = index + self._first[output]
            elif self.product.tables == 0:
                index = index + group * T.int32(2**self.bits)
            weight = T.bind(T.cast(self._table[index], self.sum))
            for row, slot in enumerate(slots):
                activation = T.cast(self._rows[slot, k], self.sum)
                self.write(sums[row][v][0], self.read(sums[row][v][0]) + activation * weight)

    def _add_group(
        self, tile: Expr, group: Expr, slots: Sequence[Expr], sums: Any, totals: Any
    ) -> None:
        """Add a group's sums, scaled, to the totals of the rows, and clear them."""
        rounded = self.math.rounded
        for v in range(self.vectors):
            scale, zero = self.group_scales(tile, group, v)
            for row, slot in enumerate(slots):
                term = rounded(T.cast(self.read(sums[row][v][0]), "float32") * scale)
                if self.product.zero:
                    term = term - rounded(self._group_sum[slot, group] * zero)
                self.write(totals[row][v][0], self.read(totals[row][v][0]) + term)
                self.write(sums[row][v][0], T.Cast(self.sum, 0))

    def _scaled(self, tile: Expr, v: int, slot: Expr, total: Expr) -> Expr:
        if self.product.parted:
            return total if self.float else total * self._row_scale[slot]
        scale = self.scales(tile, v)
        total = T.cast(total, "float32")
        return total * (scale if self.float else self._row_scale[slot] * scale)
