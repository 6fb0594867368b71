"""Engine ``table`` where a register table has 16 entries: one group of one row at a time.

The same sums as in ``table.py``, exact for 1-bit weights. A sum of four int8 activations has ten
bits; it is tabulated in two halves of five, ``512 + sum = 32 high + low``, so that bytes hold eight
look-ups of either before they are widened: of every look-up there is little more than an addition
of bytes (TBL and ADD, VPSHUFB and VPADDB). A look-up answers for as many outputs as a vector has
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.engine import Store
from gq_tvm.schedules.cpu.engines.table import ENTRIES, BitTables, table_space
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.schedule import Schedule

Expr = Any

_GROUP = 4  # weights of a nibble
_UNIT = 2 * _GROUP  # k of a byte
_HALF_BITS = 5
_BIAS = 512  # the least sum is -508
_SHORT = 4  # units whose halves fit a byte: 2 * 4 * 31 < 256
_LONG = 2**16 // (2 * (2**_HALF_BITS - 1)) // _SHORT * _SHORT  # units whose halves fit uint16


class NarrowTableEngine(BitTables):
    """`table.TableEngine` on 16-entry tables: a tile is ``vectors / 4`` vectors of bytes."""

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self.units = -(-self.k // _UNIT)
        self.padded_k = self.units * _UNIT
        self.columns = self.outputs // isa.vector_bytes

    @classmethod
    def supports(cls, isa: InstructionSet, product: Product) -> bool:
        return isa.table_entries == ENTRIES and super().supports(isa, product)

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        return table_space()

    def pack(self, indices: np.ndarray) -> np.ndarray:
        n, k = indices.shape
        padded = np.zeros((self.padded_n, self.padded_k), np.uint8)
        padded[:n, :k] = indices
        bits = np.packbits(padded, axis=1, bitorder="little")  # two nibbles a byte
        bits = bits.reshape(self.tiles, self.columns, -1, self.units)
        return np.ascontiguousarray(bits.transpose(0, 3, 1, 2))

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
        sums = T.bind(sums + T.broadcast(T.int16(_BIAS), ENTRIES))
        low = T.bitwise_and(sums, T.broadcast(T.int16(2**_HALF_BITS - 1), ENTRIES))
        high = T.shift_right(sums, T.broadcast(T.int16(_HALF_BITS), ENTRIES))
        for part, value in enumerate((low, high)):
            for start in range(0, self.isa.vector_bytes, ENTRIES):  # one copy for each 128 bits
                at = [slot, group, part, T.ramp(start, 1, ENTRIES)]
                T.buffer_store(self._tables, T.cast(value, f"uint8x{ENTRIES}"), at)

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        sums = self.accumulators(len(slots), "int32")
        lanes = self.lanes
        least = T.broadcast(T.int32(-_BIAS * 2 * self.units), lanes)
        for vector in (part for row in sums for v in row for part in v):
            self.write(vector, least)

        def long(first: Expr, units: int) -> None:
            wide = self._zeros(slots, "uint16", 2)
            each(
                units // _SHORT,
                lambda i: self._short(tile, first + i * _SHORT, _SHORT, slots, wide),
            )
            if units % _SHORT:
                start = first + units // _SHORT * _SHORT
                self._short(tile, start, units % _SHORT, slots, wide)
            for row in range(len(slots)):
                for v in range(self.vectors):
                    low, high = (
                        _quarter(halves[v % 4 // 2], v % 2, lanes) for halves in wide[row][v // 4]
                    )
                    high = T.shift_left(high, T.broadcast(T.int32(_HALF_BITS), lanes))
                    self.write(sums[row][v][0], self.read(sums[row][v][0]) + low + high)

        each(self.units // _LONG, lambda i: long(i * _LONG, _LONG))
        if self.units % _LONG:
            long(T.int32(self.units // _LONG * _LONG), self.units % _LONG)
        self.finish(tile, slots, lambda row, v: self.read(sums[row][v][0]), store)

    def _zeros(self, slots: Sequence[Expr], dtype: str, parts: int) -> list[Any]:
        """Registers [row][column][low or high half of a sum][part] of zeros."""
        lanes = self.isa.vector_bytes // parts

        def zero() -> Any:
            buffer = T.alloc_buffer((lanes,), dtype)
            T.buffer_store(buffer, T.broadcast(T.Cast(dtype, 0), lanes), [T.ramp(0, 1, lanes)])
            return buffer

        return [
            [[[zero() for _ in range(parts)] for _ in (0, 1)] for _ in range(self.columns)]
            for _ in slots
        ]

    def _short(
        self, tile: Expr, first: Expr, units: int, slots: Sequence[Expr], wide: list[Any]
    ) -> None:
        """Emit the look-ups of a few units for all outputs of the tile, added up as bytes."""
        isa = self.isa
        size, words = isa.vector_bytes, isa.vector_bytes // 2
        every = T.ramp(0, 1, size)
        narrow = self._zeros(slots, "uint8", 1)
        for i in range(units):
            for column in range(self.columns):
                packed = T.bind(self._weights[tile, first + i, column, every])
                for half in (0, 1):
                    index = T.bind(isa.move_bits(packed, 4 * half))
                    for row, slot in enumerate(slots):
                        for part, (buffer,) in enumerate(narrow[row][column]):
                            table = self._tables[slot, 2 * (first + i) + half, part, every]
                            found = isa.look_up_bytes(4, [table], index)
                            T.buffer_store(buffer, buffer[every] + found, [every])
        for row in range(len(slots)):
            for column in range(self.columns):
                for (found,), sums in zip(narrow[row][column], wide[row][column], strict=True):
                    for take, total in zip((T.vectorlow, T.vectorhigh), sums, strict=True):
                        part = T.cast(take(f"uint8x{words}", found[every]), f"uint16x{words}")
                        at = T.ramp(0, 1, words)
                        T.buffer_store(total, total[at] + part, [at])


def _quarter(words: Any, half: int, lanes: int) -> Expr:
    """One half of a register of uint16, as int32."""
    take = (T.vectorlow, T.vectorhigh)[half]
    return T.cast(take(f"uint16x{lanes}", words[T.ramp(0, 1, 2 * lanes)]), f"int32x{lanes}")
