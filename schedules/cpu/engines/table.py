"""Engine ``table``: sums of activations looked up by weight bits; no weight is ever multiplied.

A nibble of packed weights covers a *group* of ``4 / bits`` consecutive k. For each group of a row
the 16 sums its nibble may mean are tabulated once (T-MAC, arXiv 2407.00088, with learned centroids
in place of +-1), and all outputs look theirs up: one byte look-up for 4 weights of 1 bit. The four
bytes of a 32-bit lane are four groups of one output, told apart by index bits 4 and 5 of a
64-entry table, so that a dot product with ones adds them up.

One-bit weights are exact: what is tabulated is the sum of the int8 activations whose bit is set,
in two bytes, and ``sum(q c) = c0 sum(q) + (c1 - c0) sum(q where set)``. (With two bits, exact
sums of products would need as many look-ups and dot products as ``lookup`` itself.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.instruction_sets.base import typed
from gq_tvm.schedules.cpu.layout import whole_lines
from gq_tvm.schedules.cpu.staging.int8 import stage_int8
from gq_tvm.schedules.family import MOST_INT8_K, Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Schedule, grid

Expr = Any
Buffer = Any

ENTRIES = 16  # of a group's table: a nibble's values
GROUPS = 4  # of a 64-entry table: the bytes of a 32-bit lane
_POSITIONS = 0x30201000  # of these bytes, where an index has bits 4 and 5


def table_space(**knobs: Iterable[int]) -> list[Schedule]:
    """The schedules of an engine that shares no look-up among rows."""
    return grid(Schedule(vectors=8, rows=1), vectors=(8, 4), **knobs)


class Tables(Engine):
    """Packing and look-ups of every engine that tabulates sums of groups."""

    isa: InstructionSet

    _weights: Buffer

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self.group = 4 // self.bits
        self.depth = 2 * GROUPS * self.group  # k in a packed vector: two nibbles a byte
        self.units = -(-self.k // self.depth)
        self.padded_k = self.units * self.depth

    @classmethod
    def supports(cls, isa: InstructionSet, product: Product) -> bool:
        wide = isa.table_entries >= GROUPS * ENTRIES and isa.multiplies_vectors
        return wide and product.bits in (1, 2) and super().supports(isa, product)

    def pack(self, indices: np.ndarray) -> np.ndarray:
        """Pack ``uint8 [N, K]`` into ``uint8 [tiles, units, vectors, 4 * lanes]``."""
        n, k = indices.shape
        padded = np.zeros((self.padded_n, self.padded_k), np.uint8)
        padded[:n, :k] = indices
        groups = padded.reshape(self.padded_n, -1, self.group)
        places = self.bits * np.arange(self.group, dtype=np.uint8)
        nibbles = np.bitwise_or.reduce(groups << places, axis=2)
        # [tile, vector, lane, unit, half of a byte, byte] -> [tile, unit, vector, lane, byte]
        shape = (self.tiles, self.vectors, self.lanes, self.units, 2, GROUPS)
        low, high = nibbles.reshape(shape).transpose(4, 0, 3, 1, 2, 5)
        return (low | high << 4).reshape(self.tiles, self.units, self.vectors, -1)

    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the packed weight."""
        return self.tiles, self.units, self.vectors, 4 * self.lanes

    def nibbles(self, tile: Expr, unit: Expr, vector: int) -> list[Expr]:
        """Emit the table indices of a packed vector: of its low, then of its high nibbles."""
        isa = self.isa
        packed = T.bind(self._weights[tile, unit, vector, T.ramp(0, 1, isa.vector_bytes)])
        positions = typed(T.broadcast(T.uint32(_POSITIONS), self.lanes), "uint8", isa.vector_bytes)
        return [
            T.bind(isa.join_bits(0x0F, isa.move_bits(packed, shift), positions)) for shift in (0, 4)
        ]

    def look_up(self, table: Expr, index: Expr) -> Expr:
        """Emit the look-up of one byte an index."""
        return self.isa.look_up_bytes(6, [table], index)


class BitTables(Engine):
    """What engines of 1-bit weights share: ``(c0 sum(q) + (c1 - c0) sum(q where set)) scale``."""

    isa: InstructionSet

    _row: Buffer

    @classmethod
    def supports(cls, isa: InstructionSet, product: Product) -> bool:
        # (c1 - c0) may be twice the largest centroid.
        fits = 2 * product.k <= MOST_INT8_K
        return product.bits == 1 and fits and super().supports(isa, product)

    #: K rounded up to what is packed.
    padded_k: int

    @abstractmethod
    def pack(self, indices: np.ndarray) -> np.ndarray:
        """Pack ``uint8 [N, K]`` into ``uint8`` of ``shape()``."""

    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the packed weight."""

    @abstractmethod
    def tabulate(self, slot: Expr) -> None:
        """Emit the tables of the staged row."""

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        low, high = levels.table[0].astype(np.int32)
        return {
            "weights": self.pack(indices),
            "table": whole_lines(np.array([low, high - low], np.int32)),
            **self.pack_scales(levels),
        }

    def declare(self) -> None:
        self._weights = T.arg("weights", T.buffer(self.shape(), "uint8"))
        self._levels = T.arg("table", T.buffer((16,), "int32"))
        self.declare_scales()

    def begin(self, rows: int) -> None:
        self._row = T.alloc_buffer((self.padded_k,), "int8")
        self._row_scale = T.alloc_buffer((rows,), "float32")
        self._row_sum = T.alloc_buffer((rows,), "int32")
        for k in range(self.k, self.padded_k):
            T.buffer_store(self._row, T.int8(0), [k])

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        def store_row(k: Expr, values: Expr) -> None:
            lanes = 1 if str(values.ty) == "int8" else self.lanes
            T.buffer_store(self._row, values, [k if lanes == 1 else T.ramp(k, 1, lanes)])

        stage_int8(
            load,
            self.k,
            self.math,
            row=store_row,
            scale=lambda value: T.buffer_store(self._row_scale, value, [slot]),
            total=lambda value: T.buffer_store(self._row_sum, value, [slot]),
        )
        self.tabulate(slot)

    def finish(
        self,
        tile: Expr,
        slots: Sequence[Expr],
        where_set: Callable[[int, int], Expr],
        store: Store,
    ) -> None:
        """Emit the outputs, given the int32 sum of activations whose bit is set by (row, v)."""
        lanes = self.lanes
        low_level, step = self._levels[0], self._levels[1]
        for row, slot in enumerate(slots):
            base = T.bind(T.broadcast(low_level * self._row_sum[slot], lanes))
            row_scale = T.bind(self._row_scale[slot])
            for v in range(self.vectors):
                total = base + where_set(row, v) * T.broadcast(step, lanes)
                scale = self.scales(tile, v)
                value = T.cast(total, f"float32x{lanes}") * (T.broadcast(row_scale, lanes) * scale)
                store(row, v, value)


class TableEngine(Tables, BitTables):
    """1-bit weights by tables of 64 entries, low bytes and high bytes apart."""

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        return table_space(unroll=(1, 2, 4), prefetch=(0, 2048))

    def begin(self, rows: int) -> None:
        super().begin(rows)
        self._tables = T.alloc_buffer((rows, 2 * self.units, 2, self.isa.vector_bytes), "uint8")

    def tabulate(self, slot: Expr) -> None:
        each(2 * self.units, lambda table: self._tabulate(slot, table))

    def _tabulate(self, slot: Expr, table: Expr) -> None:
        """Emit the sums of four groups, low bytes and high bytes."""
        lanes = self.lanes
        entry = T.ramp(0, 1, lanes)
        bits = [
            T.shift_left(
                T.bitwise_and(
                    T.shift_right(entry, T.broadcast(T.int32(j), lanes)),
                    T.broadcast(T.int32(1), lanes),
                ),
                T.broadcast(T.int32(8 * j), lanes),
            )
            for j in range(4)
        ]
        is_set = typed(bits[0] | bits[1] | bits[2] | bits[3], "uint8", self.isa.vector_bytes)
        for position in range(GROUPS):
            at = T.ramp((table * GROUPS + position) * 4, 1, 4)
            activations = T.bind(T.reinterpret("int32", self._row[at]))
            (sums,) = self.isa.dot([T.broadcast(T.int32(0), lanes)], [is_set], [activations])
            sums = T.bind(sums)
            high = T.shift_right(sums, T.broadcast(T.int32(8), lanes))
            where = T.ramp(position * ENTRIES, 1, ENTRIES)
            T.buffer_store(self._tables, T.cast(sums, f"uint8x{lanes}"), [slot, table, 0, where])
            T.buffer_store(self._tables, T.cast(high, f"uint8x{lanes}"), [slot, table, 1, where])

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        isa, lanes = self.isa, self.lanes
        every = T.ramp(0, 1, isa.vector_bytes)
        ones = T.int32(0x01010101)
        ones_bytes = self.isa.constant_bytes(1)
        sums = self.accumulators(len(slots), "int32", 2)

        ahead = self.schedule["prefetch"] // (self.vectors * self.isa.vector_bytes)

        def unit_step(unit: Expr) -> None:
            if ahead:
                self.prefetch(self._weights, tile, unit, ahead, self.vectors)
            tables = [
                [
                    [T.bind(self._tables[slot, 2 * unit + half, part, every]) for part in (0, 1)]
                    for half in (0, 1)
                ]
                for slot in slots
            ]
            for v in range(self.vectors):
                for half, index in enumerate(self.nibbles(tile, unit, v)):
                    for row in range(len(slots)):
                        low, high = (self.look_up(t, index) for t in tables[row][half])
                        low_sum, high_sum = sums[row][v]
                        self.write(low_sum, isa.dot([self.read(low_sum)], [low], [ones])[0])
                        self.write(
                            high_sum,
                            isa.dot_vectors(self.read(high_sum), ones_bytes, high),
                        )

        self.trips(self.units, unit_step)

        def where_set(row: int, v: int) -> Expr:
            low, high = (self.read(part) for part in sums[row][v])
            return low + T.shift_left(high, T.broadcast(T.int32(8), lanes))

        self.finish(tile, slots, where_set, store)
