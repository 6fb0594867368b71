"""Engine ``lookup``: int8 activations, int8 centroids looked up in registers, integer dot products.

8-bit weights need no table: what is packed is the centroid itself, also 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu import emit
from gq_tvm.schedules.cpu.codes import SUBVECTORS, planes
from gq_tvm.schedules.cpu.engine import Engine, Store, tile_space
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.layout import TileLayout, whole_lines
from gq_tvm.schedules.cpu.staging.group_sums import group_sums
from gq_tvm.schedules.cpu.staging.int8 import stage_int8
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Schedule

Expr = Any
#: [output vector][partial sum]
Sums = list[list[Any]]


class LookupEngine(Engine):
    """``y = (sum_k q[m, k] c[index[n, k]]) * (scale_x[m] * scale_w[n])``, exact until the scale.

    In groups it is ``scale_x[m] * sum_j (acc_j * scale_w[n, j] - sum_k q[m, k] * zero[n, j])`` with
    such exact sums acc_j, j rising, and every product and every sum rounded to fp32.
    """

    isa: InstructionSet

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self.codes = planes(8) if self.bits == 8 else isa.codes(self.bits)
        self.layout = TileLayout(self.bits, isa.lanes, self.codes, self.vectors, isa.byte_order)
        self._reads = list(dict.fromkeys(code.reads for code in self.codes))
        self.padded_k = -(-self.k // self.layout.depth) * self.layout.depth

    @classmethod
    def supports(cls, isa: InstructionSet, product: Product) -> bool:
        return product.tables == 1

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        space = tile_space(isa, "int8", product, prefetch=(0, 2048))
        return [one for one in space if SUBVECTORS // one["vectors"] >= isa.dot_groups]

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        unsigned = (levels.table[0].astype(np.int16) + self.isa.centroid_offset).astype(np.uint8)
        if self.bits == 8:
            indices, unsigned = unsigned[indices], np.zeros(1, np.uint8)
        else:
            unsigned = self._laid_out(unsigned)
        return {
            "weights": self.layout.pack(indices),
            "table": whole_lines(unsigned),
            **self.pack_scales(levels),
        }

    def declare(self) -> None:
        shape = self.layout.shape(self.n, self.k)
        self._weights = T.arg("weights", T.buffer(shape, "uint8"))
        self._table = T.arg("table", T.buffer((self._table_bytes(),), "uint8"))
        self.declare_scales()

    def _table_bytes(self) -> int:
        table = np.zeros(2**self.bits, np.uint8)
        return 64 if self.bits == 8 else len(whole_lines(self._laid_out(table)))

    def _laid_out(self, values: np.ndarray) -> np.ndarray:
        """The tables of all codes, one after the other."""
        return np.concatenate([self.isa.byte_table(values, reads) for reads in self._reads])

    def begin(self, rows: int) -> None:
        self._rows = T.alloc_buffer((rows, self.padded_k), "int8")
        self._row_scale = T.alloc_buffer((rows,), "float32")
        self._registers: dict[tuple[int, ...], Sequence[Expr]] = {}
        if self.product.parted:
            shape = (rows, self.product.groups)
            self._start = T.alloc_buffer(shape, "int32") if self.isa.centroid_offset else None
            self._sum = T.alloc_buffer(shape, "float32") if self.product.zero else None
        else:
            self._row_sum = T.alloc_buffer((rows,), "int32")
        if self.padded_k > self.k:  # padding of K meets index 0: it must be multiplied by zero
            with T.serial(0, rows) as slot:
                for k in range(self.k, self.padded_k):
                    T.buffer_store(self._rows, T.int8(0), [slot, k])

    def tables(self) -> None:
        if self.bits < 8:
            size = len(self.isa.byte_table(np.zeros(2**self.bits, np.uint8), self._reads[0]))
            for number, reads in enumerate(self._reads):
                load = self._loader(number * size)
                self._registers[reads] = self.isa.load_byte_table(self.bits, load)

    def _loader(self, start: int) -> Callable[[int, int], Expr]:
        return lambda offset, lanes: self._table[T.ramp(start + offset, 1, lanes)]

    def _row_loader(self, slot: Expr, first: Expr) -> Callable[[int, int], Expr]:
        return lambda k, lanes: self._rows[slot, T.ramp(first + k, 1, lanes)]

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        parted, offset = self.product.parted, self.isa.centroid_offset

        def store_row(k: Expr, values: Expr) -> None:
            lanes = 1 if str(values.ty) == "int8" else self.lanes
            T.buffer_store(self._rows, values, [slot, emit.ramp(k, lanes)])

        def store_sum(group: Expr, value: Expr) -> None:
            if self._start is not None:
                T.buffer_store(self._start, value * T.int32(-offset), [slot, group])
            if self._sum is not None:
                T.buffer_store(self._sum, T.cast(value, "float32"), [slot, group])

        whole = offset != 0 and not parted
        stage_int8(
            load,
            self.k,
            self.math,
            row=store_row,
            scale=lambda value: T.buffer_store(self._row_scale, value, [slot]),
            total=(lambda value: T.buffer_store(self._row_sum, value, [slot])) if whole else None,
        )
        if parted and (self._start is not None or self._sum is not None):
            group_sums(self.product, lambda k: self._rows[slot, k], "int32", store_sum)

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        # [vector][partial sum of all rows]
        (sums,) = self.accumulators(1, "int32", self.isa.sums_of(len(slots)))
        units = self.layout.shape(self.n, self.k)[1]

        if self.product.parted:
            self._multiply_groups(tile, slots, sums, units, store)
        else:
            self.trips(units, lambda unit: self._unit(tile, unit, slots, sums))
            self._finish(tile, slots, sums, store)

    def _unit(
        self,
        tile: Expr,
        unit: Expr,
        slots: Sequence[Expr],
        sums: Sums,
        starts: Sequence[Expr] | None = None,
    ) -> None:
        """Emit a unit of K; of the first of a group, `starts` are what its sums begin with."""
        isa, layout = self.isa, self.layout
        _, _, count, size = layout.shape(self.n, self.k)
        ahead = self.schedule["prefetch"] // (count * size)
        if ahead:
            self.prefetch(self._weights, tile, unit, ahead, count)
        vectors = [T.bind(self._weights[tile, unit, j, T.ramp(0, 1, size)]) for j in range(count)]
        first = unit * layout.depth
        activations = [
            isa.activations(self._row_loader(slot, first), layout.groups) for slot in slots
        ]
        for v in range(self.vectors):
            weights = [
                T.bind(self._centroids(vectors, group * self.vectors + v))
                for group in range(layout.groups)
            ]
            before = starts or [self.read(part) for part in sums[v]]
            after = isa.dot_rows(before, weights, activations)
            for part, result in zip(sums[v], after, strict=True):
                self.write(part, result)

    def _finish(self, tile: Expr, slots: Sequence[Expr], sums: Sums, store: Store) -> None:
        """Emit the results of sums over all of K."""
        isa, lanes = self.isa, self.lanes
        row_scales = [T.bind(self._row_scale[slot]) for slot in slots]
        for v in range(self.vectors):
            totals = isa.totals([self.read(part) for part in sums[v]], len(slots))
            scale = self.scales(tile, v)
            for row, (slot, total) in enumerate(zip(slots, totals, strict=True)):
                if isa.centroid_offset:
                    correction = self._row_sum[slot] * T.int32(isa.centroid_offset)
                    total = total - T.broadcast(correction, lanes)
                value = T.cast(total, f"float32x{lanes}")
                store(row, v, value * (T.broadcast(row_scales[row], lanes) * scale))

    def _multiply_groups(
        self,
        tile: Expr,
        slots: Sequence[Expr],
        sums: Sums,
        units: int,
        store: Store,
    ) -> None:
        """Emit the units of each group and take its sums over into fp32."""
        totals = self.accumulators(len(slots), "float32")

        def group(number: Expr, first: Expr, count: int) -> None:
            self._unit(tile, first, slots, sums, self._starts(number, slots, len(sums[0])))
            self.trips(
                count - 1, lambda unit: self._unit(tile, unit, slots, sums), first + T.int32(1)
            )
            self._add_group(tile, number, slots, sums, totals)

        self.each_group(units, self.layout.depth, group)
        for row, slot in enumerate(slots):
            row_scale = T.bind(T.broadcast(self._row_scale[slot], self.lanes))
            for v in range(self.vectors):
                store(row, v, self.read(totals[row][v][0]) * row_scale)

    def _starts(self, group: Expr, slots: Sequence[Expr], count: int) -> Sequence[Expr]:
        """Where sums of a group begin: at 0, or at what makes up for the centroids' offset."""
        if self._start is None:
            return [T.broadcast(T.int32(0), self.lanes)] * count
        assert count == len(slots)
        return [T.bind(T.broadcast(self._start[slot, group], self.lanes)) for slot in slots]

    def _add_group(
        self, tile: Expr, group: Expr, slots: Sequence[Expr], sums: Sums, totals: list[Sums]
    ) -> None:
        """Add a group's sums, scaled, to the totals of the rows."""
        rounded, lanes = self.math.rounded, self.lanes
        for v in range(self.vectors):
            scale, zero = self.group_scales(tile, group, v)
            found = self.isa.totals([self.read(part) for part in sums[v]], len(slots))
            for row, (slot, total) in enumerate(zip(slots, found, strict=True)):
                term = rounded(T.cast(total, f"float32x{lanes}") * scale)
                if self._sum is not None:
                    term = term - rounded(T.broadcast(self._sum[slot, group], lanes) * zero)
                self.write(totals[row][v][0], self.read(totals[row][v][0]) + term)

    def _centroids(self, vectors: Sequence[Expr], subvector: int) -> Expr:
        code = self.codes[subvector]
        index = self.isa.unpack(code, vectors)
        if self.bits == 8:
            return index
        return self.isa.look_up_bytes(self.bits, self._registers[code.reads], index)
