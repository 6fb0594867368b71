"""Engine ``table8``: tables of partial sums rounded to 8 bits; half the look-ups of exact ones.

Each group's 16 sums of centroid x activation are taken in fp32, from fp32 activations, and rounded
once, by a scale of its *block* of 16 groups. What is lost is about what int8 activations lose (see
``ops.reference.rounded_table_linear``, the definition), but it is not what a model trained with
int8 activations computes: a kernel for those who ask for it, never taken by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.ops.reference import BLOCK_GROUPS
from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.engine import Store
from gq_tvm.schedules.cpu.engines.table import ENTRIES, GROUPS, Tables, table_space
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.staging.int8 import Peak, magnitude_bits
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Schedule

Expr = Any

_UNITS = BLOCK_GROUPS // (2 * GROUPS)  # packed vectors of a block


class RoundedTableEngine(Tables):
    """``y = (sum over blocks of scale_block sum over groups of table[nibble]) * scale_w``."""

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self.blocks = -(-self.units // _UNITS)
        self.units = self.blocks * _UNITS
        self.padded_k = self.units * self.depth

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        return table_space(unroll=(1, 2), prefetch=(0, 2048))

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        table = levels.table[0]
        places = self.bits * np.arange(self.group)[:, None]
        parts = np.arange(ENTRIES)[None, :] >> places & (1 << self.bits) - 1
        return {
            "weights": self.pack(indices),
            "table": table.astype(np.float32)[parts],
            **self.pack_scales(levels),
        }

    def declare(self) -> None:
        self._weights = T.arg("weights", T.buffer(self.shape(), "uint8"))
        self._centroids = T.arg("table", T.buffer((self.group, ENTRIES), "float32"))
        self.declare_scales()

    def begin(self, rows: int) -> None:
        self._row = T.alloc_buffer((self.padded_k,), "float32")
        self._block_scale = T.alloc_buffer((rows, self.blocks), "float32")
        self._tables = T.alloc_buffer((rows, 2 * self.units, self.isa.vector_bytes), "int8")
        for k in range(self.k, self.padded_k):
            T.buffer_store(self._row, T.float32(0), [k])

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        whole, rest = divmod(self.k, self.lanes)

        def copy(i: Expr) -> None:
            at = i * self.lanes
            T.buffer_store(self._row, load(at, self.lanes), [T.ramp(at, 1, self.lanes)])

        each(whole, copy)
        for k in range(self.k - rest, self.k):
            T.buffer_store(self._row, load(T.int32(k), 1), [T.int32(k)])
        each(self.blocks, lambda block: self._tabulate(slot, block))

    def _tabulate(self, slot: Expr, block: Expr) -> None:
        """Emit the tables of a block: its sums, their largest magnitude, the rounded sums."""
        lanes = self.lanes
        entries = T.ramp(0, 1, ENTRIES)
        centroids = [T.bind(self._centroids[j, entries]) for j in range(self.group)]
        first = block * BLOCK_GROUPS
        sums = []
        for number in range(BLOCK_GROUPS):
            terms = [
                centroid * T.broadcast(self._row[(first + number) * self.group + j], lanes)
                for j, centroid in enumerate(centroids)
            ]
            sums.append(T.bind(reduce(lambda total, term: total + term, terms)))
        peak = reduce(T.max, [magnitude_bits(one, lanes) for one in sums])
        inverse, scale = Peak.of(T.bind(peak), lanes).int8()
        T.buffer_store(self._block_scale, scale, [slot, block])
        for number, one in enumerate(sums):
            rounded = self.math.round(one * T.broadcast(inverse, lanes))
            integers = T.cast(T.cast(rounded, f"int32x{lanes}"), f"int8x{lanes}")
            table = block * (BLOCK_GROUPS // GROUPS) + number // GROUPS
            at = T.ramp(number % GROUPS * ENTRIES, 1, ENTRIES)
            T.buffer_store(self._tables, integers, [slot, table, at])

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        lanes, isa = self.lanes, self.isa
        every = T.ramp(0, 1, isa.vector_bytes)
        ones = isa.constant_bytes(1)
        sums = self.accumulators(len(slots), "float32")
        ahead = self.schedule["prefetch"] // (self.vectors * isa.vector_bytes)

        def block_step(block: Expr) -> None:
            units = [block * _UNITS + i for i in range(_UNITS)]
            for unit in units if ahead else []:
                self.prefetch(self._weights, tile, unit, ahead, self.vectors)
            tables = [
                [
                    T.bind(self._tables[slot, 2 * unit + half, every])
                    for unit in units
                    for half in (0, 1)
                ]
                for slot in slots
            ]
            scales = [T.bind(T.broadcast(self._block_scale[slot, block], lanes)) for slot in slots]
            for v in range(self.vectors):
                indices = [index for unit in units for index in self.nibbles(tile, unit, v)]
                for row in range(len(slots)):
                    total = T.broadcast(T.int32(0), lanes)
                    for table, index in zip(tables[row], indices, strict=True):
                        found = self.look_up(table, index)
                        total = T.bind(isa.dot_vectors(total, ones, found))
                    part = sums[row][v][0]
                    scaled = T.cast(total, f"float32x{lanes}") * scales[row]
                    self.write(part, self.read(part) + scaled)

        self.trips(self.blocks, block_step)
        for row in range(len(slots)):
            for v in range(self.vectors):
                scale = self.scales(tile, v)
                store(row, v, self.read(sums[row][v][0]) * scale)
