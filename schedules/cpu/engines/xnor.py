"""Family ``xnor``: weights and activations of 1 or 2 bits, as sums of signs; XOR and popcount.

A product of signs is a sum of ``K`` terms +-1, of which as many are -1 as bits differ:
``sum_k s[k] a[k] = K - 2 popcount(s ^ a)``, with the bit 1 for -1. Activations are such sums of
planes already (``stage_planes``). So is any codebook of n bits, by the Walsh-Hadamard transform:

    2^n c[index] = C_0 + sum_p C_p s_p,    s_p = (-1)^popcount(p & index),  p = 1 .. 2^n - 1

A plane of 1 bit and three of 2 bits, of which the third, ``s_1 s_2``, is made in registers from the
two in memory. In a codebook whose centroids lie in mirrored pairs its coefficient is 0 and it is
left out. The C_p are integers, as centroids are on an int8 grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as every
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.layout import whole_lines
from gq_tvm.schedules.cpu.staging.planes import PLANE_WEIGHTS, WORD, stage_planes
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Schedule

Expr = Any
Buffer = Any
#: A row, an output vector, a plane of the weight and one of the row.
Key = tuple[int, int, int, int]
Sums = dict[Key, Buffer]


def walsh_hadamard(table: np.ndarray) -> np.ndarray:
    """The coefficients ``C_p`` of a codebook: integers [2^n] -> int32 [2^n].

    Up to 2^n times the largest centroid; ``H @ C = 2^n table`` as H is its own inverse but for 2^n.
    """
    signs = np.array([[1]])
    while len(signs) < len(table):
        signs = np.block([[signs, signs], [signs, -signs]])
    return signs @ table.astype(np.int32)


class XnorEngine(Engine):
    """``y = (sum_k q[m, k] c[index[n, k]]) * (scale_x[m] * scale_w[n])``, exact until the scale.

    No int32 overflows: the ``|C_p|`` of 2 bits add up to 8 * 127 at most, levels are 3 at most, and
    with what ``_finish`` adds first no partial sum exceeds 7112 K, below 2^31 for K to 300 000.
    """

    isa: InstructionSet

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self.arithmetic = product.activation
        self.row_planes = PLANE_WEIGHTS[product.activation]
        self.planes = 2**self.bits - 1
        self.words = -(-self.k // WORD)

    @classmethod
    def supports(cls, isa: InstructionSet, product: Product) -> bool:
        few = product.bits <= 2 and product.activation in PLANE_WEIGHTS
        return few and super().supports(isa, product)

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        pairs = (2**product.bits - 1) * len(PLANE_WEIGHTS[product.activation])
        rows = min(4, max(1, isa.live_counters // pairs))
        vectors = (4, 8) if product.gates else (4, 8, 2)
        unrolls = (2, 1, 4) if isa.counter == "int32" else (1, 2, 4)  # bytes are code enough
        return [Schedule(vectors=v, rows=rows, unroll=u) for v in vectors for u in unrolls]

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        table = levels.table[0]
        # Numbered by size, centroids in mirrored pairs have no product of planes.
        order = np.argsort(table, kind="stable")
        rank = np.argsort(order).astype(np.uint8)
        n, k = indices.shape
        padded = np.zeros((self.padded_n, self.words * WORD), np.uint8)
        padded[:n, :k] = rank[indices]
        planes = [np.packbits(padded >> b & 1, axis=1, bitorder="little") for b in range(self.bits)]
        words = np.stack([plane.view("<i4") for plane in planes])  # [plane, output, word]
        words = words.reshape(self.bits, self.tiles, self.vectors, self.lanes, self.words)
        return {
            "weights": np.ascontiguousarray(words.transpose(1, 4, 0, 2, 3)),
            "coefficients": whole_lines(walsh_hadamard(table[order]).astype(np.int32)),
            **self.pack_scales(levels),
        }

    def declare(self) -> None:
        shape = (self.tiles, self.words, self.bits, self.vectors, self.lanes)
        self._weights = T.arg("weights", T.buffer(shape, "int32"))
        self._coefficients = T.arg("coefficients", T.buffer((16,), "int32"))
        self.declare_scales()

    def begin(self, rows: int) -> None:
        self._rows = T.alloc_buffer((rows, len(self.row_planes), self.words), "int32")
        self._row_scale = T.alloc_buffer((rows,), "float32")
        self._row_sum = T.alloc_buffer((rows,), "int32")

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        T.buffer_store(self._row_sum, T.int32(self.k * sum(self.row_planes)), [slot])

        def store_word(plane: int, i: Expr, bits: Expr) -> None:
            bits = T.bind(bits)
            T.buffer_store(self._rows, bits, [slot, plane, i])
            negative = T.popcount(bits) * T.int32(2 * self.row_planes[plane])
            T.buffer_store(self._row_sum, self._row_sum[slot] - negative, [slot])

        stage_planes(
            load,
            self.k,
            self.math,
            self.arithmetic,
            word=store_word,
            scale=lambda value: T.buffer_store(self._row_scale, value, [slot]),
        )

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        # As many output vectors at a time as there are registers for their counters.
        each_vector = len(slots) * self.planes * len(self.row_planes)
        group = max(1, self.isa.live_counters // each_vector)
        for first in range(0, self.vectors, group):
            vectors = range(first, min(first + group, self.vectors))
            keys = list(
                every(range(len(slots)), vectors, range(self.planes), range(len(self.row_planes)))
            )
            sums = self._count(tile, slots, vectors, keys)
            for row, slot in enumerate(slots):
                self._finish(tile, row, slot, vectors, sums, store)

    def _count(self, tile: Expr, slots: Sequence[Expr], vectors: range, keys: list[Key]) -> Sums:
        """The differing bits of whole rows; counters are folded before they overflow."""
        sums = {key: self._zero("int32") for key in keys}
        pieces = -(-self.words // self.isa.most_counted)
        size = -(-self.words // pieces)
        unroll = self.schedule["unroll"]

        def piece(i: Expr) -> None:
            first, words = i * size, self.words
            if pieces > 1:
                words = size if self.words % size == 0 else T.min(size, self.words - first)
            counters = {key: self._zero(self.isa.counter) for key in keys}

            def count(word: Expr) -> None:
                self._count_word(tile, slots, vectors, first + word, counters)

            def unrolled(i: Expr) -> None:
                for j in range(unroll):
                    count(i * unroll + j)

            each(words // unroll, unrolled)
            if unroll > 1:
                each(words % unroll, lambda i: count(words // unroll * unroll + i))
            for key in keys:
                folded = self.isa.fold_counts(_whole(counters[key]))
                self.write(sums[key], self.read(sums[key]) + folded)

        each(pieces, piece)
        return sums

    def _zero(self, dtype: str) -> Buffer:
        """A vector of zeros in a buffer of its own: LLVM keeps it in a register."""
        lanes = self.isa.vector_bytes // (1 if dtype == "uint8" else 4)
        buffer = T.alloc_buffer((lanes,), dtype)
        _store(buffer, T.broadcast(T.Cast(dtype, 0), lanes))
        return buffer

    def _count_word(
        self, tile: Expr, slots: Sequence[Expr], vectors: range, word: Expr, counters: Sums
    ) -> None:
        rows = [
            [
                T.bind(T.broadcast(self._rows[slot, plane, word], self.lanes))
                for plane in range(len(self.row_planes))
            ]
            for slot in slots
        ]

        def count(v: int, plane: int, weight: Expr) -> None:
            for row, planes in enumerate(rows):
                for j, bits in enumerate(planes):
                    counter = counters[row, v, plane, j]
                    count = self.isa.count_bits(T.bitwise_xor(weight, bits))
                    _store(counter, _whole(counter) + count)

        weights = {
            (v, plane): T.bind(self._weights[tile, word, plane, v, T.ramp(0, 1, self.lanes)])
            for v in vectors
            for plane in range(self.bits)
        }
        for (v, plane), weight in weights.items():
            count(v, plane, weight)
        if self.bits == 2:
            with T.If(self._coefficients[3] != T.int32(0)), T.Then():
                for v in vectors:
                    count(v, 2, T.bind(T.bitwise_xor(weights[v, 0], weights[v, 1])))

    def _finish(
        self, tile: Expr, row: int, slot: Expr, vectors: range, sums: Sums, store: Store
    ) -> None:
        """From sums of differing bits to results.

        ``2^n acc = C_0 sum(q) + sum_p C_p (K sum_j w_j - 2 sum_j w_j P_pj)``, with w the weights of
        the row's planes and P ``sums``.
        """
        lanes = self.lanes
        coefficients = [self._coefficients[p] for p in range(self.planes + 1)]
        most = sum(coefficients[1:], start=T.int32(0)) * T.int32(self.k * sum(self.row_planes))
        most = most + coefficients[0] * self._row_sum[slot]
        # Bound as vectors: integers bound one by one slow TVM's analysis of every later access.
        wide = T.bind(T.broadcast(most, lanes))
        twice = [T.bind(T.broadcast(c * T.int32(2), lanes)) for c in coefficients[1:]]
        row_scale = T.bind(T.broadcast(self._row_scale[slot], lanes))
        for v in vectors:
            total = wide
            for plane in range(self.planes):
                differing = None
                for j, weight in enumerate(self.row_planes):
                    part = self.read(sums[row, v, plane, j])
                    part = part * T.broadcast(T.int32(weight), lanes)
                    differing = part if differing is None else differing + part
                total = total - differing * twice[plane]
            exact = T.shift_right(total, T.broadcast(T.int32(self.bits), lanes))
            scale = self.scales(tile, v)
            value = T.cast(exact, f"float32x{lanes}") * (row_scale * scale)
            store(row, v, value)


def _whole(buffer: Buffer) -> Expr:
    return buffer[T.ramp(0, 1, int(buffer.shape[0]))]


def _store(buffer: Buffer, value: Expr) -> None:
    T.buffer_store(buffer, value, [T.ramp(0, 1, int(buffer.shape[0]))])
