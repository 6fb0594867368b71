"""Engine ``table`` where a register table has 16 entries: one group of one row at a time.

The same sums as in ``table.py``, exact for 1-bit weights. A look-up answers for as many outputs as
a vector has bytes; low and high bytes are zipped to int16 sums (VPSHUFB and VPUNPCK, TBL and ZIP),
which 64 groups cannot overflow, and then widened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.engine import Store, each
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.instruction_sets import InstructionSet
from gq_tvm.schedules.instruction_sets.base import zip_lanes
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.schedules.table import ENTRIES, BitTables, table_space

Expr = Any

_GROUP = 4  # weights of a nibble
_UNIT = 2 * _GROUP  # k of a byte
_SAFE = 2**15 // (_GROUP * 127) // 2  # units whose sums fit int16


class NarrowTableEngine(BitTables):
    """`table.TableEngine` on 16-entry tables: a tile is ``vectors / 4`` vectors of bytes."""

    def __init__(self, isa: InstructionSet, n: int, k: int, bits: int, schedule: Schedule) -> None:
        super().__init__(isa, n, k, bits, schedule)
        self.units = -(-k // _UNIT)
        self.padded_k = self.units * _UNIT
        self.columns = self.outputs // isa.vector_bytes

    @classmethod
    def supports(cls, isa: InstructionSet, product: Product) -> bool:
        return isa.table_entries == ENTRIES and super().supports(isa, product)

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        return table_space(unroll=(1, 2))

    @property
    def _bytes_of_outputs(self) -> np.ndarray:
        """Which byte answers for each output, after the zips of 128 bits."""
        halves = np.arange(self.isa.vector_bytes).reshape(-1, 2, 8)
        return halves.transpose(1, 0, 2).reshape(-1)

    def pack(self, indices: np.ndarray) -> np.ndarray:
        n, k = indices.shape
        padded = np.zeros((self.padded_n, self.padded_k), np.uint8)
        padded[:n, :k] = indices
        bits = np.packbits(padded, axis=1, bitorder="little")  # two nibbles a byte
        bits = bits.reshape(self.tiles, self.columns, -1, self.units)
        packed = np.empty_like(bits)
        packed[:, :, self._bytes_of_outputs] = bits
        return np.ascontiguousarray(packed.transpose(0, 3, 1, 2))

    def shape(self) -> tuple[int, int, int, int]:
        return self.tiles, self.units, self.columns, self.isa.vector_bytes

    def begin(self, rows: int) -> None:
        super().begin(rows)
        shape = (rows, 2 * self.units, 2, self.isa.vector_bytes)
        self._tables = T.alloc_buffer(shape, "uint8")

    def tabulate(self, slot: Expr) -> None:
        each(2 * self.units, lambda group: self._tabulate(slot, group))

    def _tabulate(self, slot: Expr, group: Expr) -> None:
        entry = T.cast(T.ramp(0, 1, ENTRIES), f"int16x{ENTRIES}")
        sums = None
        for j in range(_GROUP):
            bit = T.bitwise_and(
                T.shift_right(entry, T.broadcast(T.int16(j), ENTRIES)),
                T.broadcast(T.int16(1), ENTRIES),
            )
            activation = T.cast(self._row[group * _GROUP + j], "int16")
            term = bit * T.broadcast(activation, ENTRIES)
            sums = term if sums is None else sums + term
        sums = T.bind(sums)
        high = T.shift_right(sums, T.broadcast(T.int16(8), ENTRIES))
        for part, value in enumerate((sums, high)):
            for start in range(0, self.isa.vector_bytes, ENTRIES):  # one copy for each 128 bits
                at = [slot, group, part, T.ramp(start, 1, ENTRIES)]
                T.buffer_store(self._tables, T.cast(value, f"uint8x{ENTRIES}"), at)

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        sums = self.accumulators(len(slots), "int32")
        words = self.isa.vector_bytes // 2
        narrow = [
            [[T.alloc_buffer((words,), "int16") for _ in (0, 1)] for _ in range(self.columns)]
            for _ in slots
        ]
        every = T.ramp(0, 1, words)

        def chunk(first: Expr, units: int) -> None:
            for buffer in (b for row in narrow for column in row for b in column):
                T.buffer_store(buffer, T.broadcast(T.int16(0), words), [every])
            self.trips(units, lambda unit: self._unit(tile, first + unit, slots, narrow))
            for row in range(len(slots)):
                for v in range(self.vectors):
                    pair = narrow[row][v // 4][v % 4 // 2]
                    take = (T.vectorlow, T.vectorhigh)[v % 2]
                    half = take(f"int16x{self.lanes}", pair[every])
                    wide = T.cast(half, f"int32x{self.lanes}")
                    self.write(sums[row][v][0], self.read(sums[row][v][0]) + wide)

        each(self.units // _SAFE, lambda i: chunk(i * _SAFE, _SAFE))
        if self.units % _SAFE:
            chunk(T.int32(self.units // _SAFE * _SAFE), self.units % _SAFE)
        self.finish(tile, slots, lambda row, v: self.read(sums[row][v][0]), store)

    def _unit(self, tile: Expr, unit: Expr, slots: Sequence[Expr], narrow: Sequence[Any]) -> None:
        """Emit the look-ups of a byte's two nibbles, for all outputs of the tile."""
        isa = self.isa
        every = T.ramp(0, 1, isa.vector_bytes)
        for column in range(self.columns):
            packed = T.bind(self._weights[tile, unit, column, every])
            for half in (0, 1):
                index = T.bind(isa.move_bits(packed, 4 * half))
                for row, slot in enumerate(slots):
                    low, high = (
                        T.bind(
                            isa.look_up_bytes(
                                4, [self._tables[slot, 2 * unit + half, part, every]], index
                            )
                        )
                        for part in (0, 1)
                    )
                    for which, buffer in enumerate(narrow[row][column]):
                        words = isa.vector_bytes // 2
                        found = zip_lanes(low, high, which, isa.vector_bytes, ENTRIES)
                        total = buffer[T.ramp(0, 1, words)] + T.reinterpret(f"int16x{words}", found)
                        T.buffer_store(buffer, total, [T.ramp(0, 1, words)])
