"""Engine ``lookup_f32``: fp32 activations and centroids, looked up in registers; the exact path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.engine import Engine, Store, tile_space
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.layout import TileLayout, whole_lines
from gq_tvm.schedules.cpu.staging.float_rows import FloatRows
from gq_tvm.schedules.cpu.staging.group_sums import group_sums
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Schedule

Expr = Any
#: [row][output vector][one]
Sums = list[list[list[Any]]]


class LookupFloatEngine(Engine):
    """``y = (sum_k x[m, k] t[index[n, k]]) * scale_w[n]`` in fp32; groups are added up."""

    isa: InstructionSet

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        codes, order = isa.float_codes(self.bits), isa.float_order(self.bits)
        self.layout = TileLayout(self.bits, isa.lanes, codes, self.vectors, order)
        padded_k = -(-self.k // self.layout.depth) * self.layout.depth
        self._staged = FloatRows(self.k, padded_k, isa.lanes)

    @classmethod
    def supports(cls, isa: InstructionSet, product: Product) -> bool:
        return product.tables == 1

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        space = tile_space(isa, "fp32", product)
        if product.bits == 8 and not product.gates:  # the table takes half the registers
            space.sort(key=lambda one: one["vectors"] != 2)
        return space

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        return {
            "weights": self.layout.pack(indices),
            "table": whole_lines(self.isa.float_table(levels.table[0])),
            **self.pack_scales(levels),
        }

    def declare(self) -> None:
        table = whole_lines(self.isa.float_table(np.zeros(2**self.bits, np.float32)))
        self._weights = T.arg("weights", T.buffer(self.layout.shape(self.n, self.k), "uint8"))
        self._table = T.arg("table", T.buffer(table.shape, str(table.dtype)))
        self.declare_scales()

    def begin(self, rows: int) -> None:
        self._staged.begin(rows)
        if self.product.zero:
            self._sum = T.alloc_buffer((rows, self.product.groups), "float32")

    def tables(self) -> None:
        self._registers = self.isa.load_float_table(
            self.bits, lambda offset, lanes: self._table[T.ramp(offset, 1, lanes)]
        )

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        self._staged.stage(load, slot)
        if self.product.zero:
            group_sums(
                self.product,
                lambda k: self._staged.buffer[slot, k],
                "float32",
                lambda group, value: T.buffer_store(self._sum, value, [slot, group]),
            )

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        units = self.layout.shape(self.n, self.k)[1]
        sums = self.accumulators(len(slots), "float32")

        def step(unit: Expr) -> None:
            self._unit(tile, unit, slots, sums)

        if self.product.parted:
            totals = self.accumulators(len(slots), "float32")

            def group(number: Expr, first: Expr, count: int) -> None:
                self.trips(count, step, first)
                self._add_group(tile, number, slots, sums, totals)

            self.each_group(units, self.layout.depth, group)
        else:
            self.trips(units, step)
        for row in range(len(slots)):
            for v in range(self.vectors):
                if self.product.parted:
                    store(row, v, self.read(totals[row][v][0]))
                else:
                    store(row, v, self.read(sums[row][v][0]) * self.scales(tile, v))

    def _unit(self, tile: Expr, unit: Expr, slots: Sequence[Expr], sums: Sums) -> None:
        """Emit a unit of K."""
        layout, lanes = self.layout, self.lanes
        _, _, count, size = layout.shape(self.n, self.k)
        vectors = [T.bind(self._weights[tile, unit, j, T.ramp(0, 1, size)]) for j in range(count)]
        for group in range(layout.groups):
            activations = [
                [
                    T.bind(self._staged.buffer[slot, unit * layout.depth + 4 * group + depth])
                    for depth in range(4)
                ]
                for slot in slots
            ]
            for v in range(self.vectors):
                index = T.bind(self.isa.unpack(layout.codes[group * self.vectors + v], vectors))
                weights = self.isa.look_up_floats(
                    self.bits, self._registers, lambda at: self._table[at], index
                )
                weights = [T.bind(weight) for weight in weights]
                for row in range(len(slots)):
                    total = self.read(sums[row][v][0])
                    for weight, activation in zip(weights, activations[row], strict=True):
                        total = total + weight * T.broadcast(activation, lanes)
                    self.write(sums[row][v][0], total)

    def _add_group(
        self, tile: Expr, group: Expr, slots: Sequence[Expr], sums: Sums, totals: Sums
    ) -> None:
        """Add a group's sums, scaled, to the totals of the rows, and clear them."""
        for v in range(self.vectors):
            scale, zero = self.group_scales(tile, group, v)
            for row, slot in enumerate(slots):
                total = self.read(totals[row][v][0]) + self.read(sums[row][v][0]) * scale
                if self.product.zero:
                    total = total - T.broadcast(self._sum[slot, group], self.lanes) * zero
                self.write(totals[row][v][0], total)
                self.write(sums[row][v][0], self.math.constant(0.0))
