"""NEON (Advanced SIMD), with and without the dot product of Armv8.2.

``TBL`` looks 16, 32 or 64 bytes up; ``TBX`` keeps the lanes whose index is out of range, which
chains two tables to 128. Without ``SDOT``, two ``SMULL`` are added in int16 (at most 32258, exact)
and folded into int32 by ``SADALP``. ``CNT`` counts the bits of bytes. (Arm ARM DDI 0487, C7.2 TBL,
TBX, SDOT, SRI, SLI, SMLAL, SADALP, CNT, UADDLP.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.codes import Code, Piece, direct, moved, planes
from gq_tvm.schedules.cpu.instruction_sets.base import (
    Expr,
    Gather,
    InstructionSet,
    Loader,
    typed,
    zip_lanes,
)

_BYTES = 16
_FLOATS = 4


def _nibbles(*reads: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Both halves of a byte, each read in several ways."""
    return [(shift, bits) for shift in (0, 4) for bits in reads]


def _chain(*parts: tuple[int, int, int]) -> Code:
    """An index put together of bits of several vectors: (vector, lowest bit, width), low first."""
    pieces, done = [], 0
    for vector, at, width in parts:
        pieces.append(Piece(vector, at - done, ((1 << width) - 1) << done))
        done += width
    return Code(tuple(pieces), tuple(range(done)))


# TBL finds nothing for an index beyond its table, so an index must stand alone in its byte. A table
# of 16 entries is made to ignore what else is in a nibble: few bits need a mask or a shift for a
# nibble, not for an index.
_CODES: dict[int, Sequence[Code]] = {
    1: [moved(0, shift, *bits) for shift, bits in _nibbles((0,), (1,), (2,), (3,))],
    2: [moved(v, shift, *bits) for v in (0, 1) for shift, bits in _nibbles((0, 1), (2, 3))],
    # Two indices in the middle of each vector; the bits at its ends make two more.
    3: [
        *(code for v in range(3) for code in (moved(v, 0, 1, 2, 3), moved(v, 4, 0, 1, 2))),
        _chain((0, 0, 1), (1, 0, 1), (2, 0, 1)),
        _chain((0, 7, 1), (1, 7, 1), (2, 7, 1)),
    ],
    # From 5 bits on, an index at one end of a vector; the bits at its other end make the others.
    5: [
        *(direct(v, *range(5)) for v in (0, 1)),
        *(moved(v, 3, *range(5)) for v in (2, 3)),
        *(_chain((4, 6 - 2 * v, 2), (v, 5, 3)) for v in (0, 1)),
        *(_chain((v, 0, 3), (4, 2 * v - 4, 2)) for v in (2, 3)),
    ],
    6: [
        *(direct(v, *range(6)) for v in range(6)),
        *(_chain((v, 6, 2), (v + 1, 6, 2), (v + 2, 6, 2)) for v in (0, 3)),
    ],
    7: [*(direct(v, *range(7)) for v in range(7)), _chain(*((v, 7, 1) for v in range(7)))],
}


class NeonDot(InstructionSet):
    """128-bit vectors, TBL over 16 to 64 entries, 4-way int8 dot products (SDOT)."""

    name = "neon-dot"
    vector_bytes = _BYTES
    tile_rows: ClassVar[dict[str, int]] = {"int8": 4, "fp32": 4}

    def move_bits(self, vector: Expr, right: int) -> Expr:
        if right == 0:
            return vector
        amount = T.broadcast(T.uint8(abs(right)), _BYTES)
        return T.shift_right(vector, amount) if right > 0 else T.shift_left(vector, amount)

    def codes(self, bits: int) -> Sequence[Code]:
        return _CODES.get(bits) or planes(bits)

    def unpack(self, code: Code, vectors: Sequence[Expr]) -> Expr:
        # A chain: SRI puts bits below the highest ones of a vector, SLI above the lowest ones.
        if len({piece.shift for piece in code.pieces}) < 2:
            return super().unpack(code, vectors)
        low_first = sorted(code.pieces, key=lambda piece: piece.mask)
        sizes = [piece.mask.bit_count() for piece in low_first]
        lowest = [(p.mask & -p.mask).bit_length() - 1 + p.shift for p in low_first]
        to_top = [at + size - 8 for at, size in zip(lowest, sizes, strict=True)]
        down = sum(map(bool, to_top)) <= sum(map(bool, lowest))
        shifts = to_top if down else lowest
        parts = list(zip(low_first, sizes, shifts, strict=True))
        joined = None
        for piece, size, shift in parts if down else reversed(parts):
            part = self.move_bits(vectors[piece.vector], shift)
            joined = part if joined is None else self.insert(part, joined, size, down)
        return self.move_bits(joined, 8 - sum(sizes)) if down else joined

    def insert(self, kept: Expr, inserted: Expr, size: int, down: bool) -> Expr:
        """Shift bytes past ``size`` bits that are kept of another vector: its highest if down."""
        name = f"llvm.aarch64.neon.{'vsri' if down else 'vsli'}.v16i8"
        return T.call_llvm_pure_intrin("uint8x16", name, kept, inserted, T.int32(size))

    def byte_table(self, values: np.ndarray, reads: Sequence[int]) -> np.ndarray:
        entries = np.arange(max(16, 2 ** (max(reads) + 1)))
        index = sum((entries >> place & 1) << bit for bit, place in enumerate(reads))
        return values[index]

    def load_byte_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        return [T.bind(load(i * _BYTES, _BYTES)) for i in range(max(1, 2**bits // 16))]

    def look_up_bytes(self, bits: int, table: Sequence[Expr], index: Expr) -> Expr:
        index = T.bitwise_and(index, self.constant_bytes(16 * len(table) - 1))
        if len(table) <= 4:
            return T.call_llvm_pure_intrin(
                "uint8x16", f"llvm.aarch64.neon.tbl{len(table)}.v16i8", *table, index
            )
        low = T.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.tbl4.v16i8", *table[:4], index)
        return T.call_llvm_pure_intrin(
            "uint8x16",
            "llvm.aarch64.neon.tbx4.v16i8",
            low,
            *table[4:],
            index - self.constant_bytes(64),
        )

    def activations(self, load: Loader, groups: int) -> Sequence[Expr]:
        # Of one register, by lane: SDOT takes a group from where it lies.
        if groups == 1:
            return [typed(T.broadcast(T.reinterpret("int32", load(0, 4)), _FLOATS), "int8", _BYTES)]
        words = T.bind(typed(load(0, 4 * groups), "int32", groups))
        return [
            typed(tirx.Shuffle([words, words], [group] * _FLOATS), "int8", _BYTES)
            for group in range(groups)
        ]

    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        total = sums[0]
        for weight, activation in zip(weights, activations, strict=True):
            total = T.call_llvm_pure_intrin(
                "int32x4",
                "llvm.aarch64.neon.sdot.v4i32.v16i8",
                total,
                typed(weight, "int8", _BYTES),
                activation,
            )
        return [total]

    def total(self, sums: Sequence[Expr]) -> Expr:
        if len(sums) == 1:
            return sums[0]
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.addp.v4i32", *sums)

    def fold_counts(self, counters: Expr) -> Expr:
        pairs = T.call_llvm_pure_intrin(
            "uint16x8", "llvm.aarch64.neon.uaddlp.v8i16.v16i8", counters
        )
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.uaddlp.v4i32.v8i16", pairs)

    # There is no permute of 32-bit lanes by a register: a float is looked up as four bytes, and
    # zips put the bytes of a lane together again.

    def float_order(self, bits: int) -> str:
        return "depth"

    def float_table(self, values: np.ndarray) -> np.ndarray:
        if len(values) > 64:
            return values
        entries = np.tile(values, max(1, 16 // len(values)))
        return entries.astype("<f4").view(np.uint8).reshape(-1, 4).T.reshape(-1)

    def load_float_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        if bits > 6:  # more entries than registers: look_up_floats reads memory
            return []
        return [T.bind(load(i * _BYTES, _BYTES)) for i in range(4 * max(1, 2**bits // 16))]

    def look_up_floats(
        self, bits: int, table: Sequence[Expr], gather: Gather, index: Expr
    ) -> Sequence[Expr]:
        if not table:
            index = T.bind(T.bitwise_and(index, self.constant_bytes(2**bits - 1)))
            quarters = [tirx.Shuffle([index], list(range(4 * d, 4 * d + 4))) for d in range(4)]
            return [gather(T.cast(quarter, "int32x4")) for quarter in quarters]
        size = len(table) // 4
        index = T.bind(index)
        planes = [
            T.bind(self.look_up_bytes(bits, table[p * size : (p + 1) * size], index))
            for p in range(4)
        ]
        halves = []
        for half in (0, 1):
            low = zip_lanes(planes[0], planes[1], half, 16, 16)
            high = zip_lanes(planes[2], planes[3], half, 16, 16)
            halves.append((typed(low, "uint16", 8), typed(high, "uint16", 8)))
        return [
            typed(zip_lanes(low, high, half, 8, 8), "float32", _FLOATS)
            for low, high in halves
            for half in (0, 1)
        ]


class Neon(NeonDot):
    """The same without SDOT (Cortex-A53, A57, A72, A73)."""

    name = "neon"
    tile_rows: ClassVar[dict[str, int]] = {"int8": 2, "fp32": 4}
    partial_sums = 2
    dot_groups = 2

    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        totals = list(sums)
        groups = list(zip(weights, activations, strict=True))
        for pair in zip(groups[::2], groups[1::2], strict=True):
            for half, take in enumerate((T.vectorlow, T.vectorhigh)):
                products = None
                for weight, activation in pair:
                    product = T.call_llvm_pure_intrin(
                        "int16x8",
                        "llvm.aarch64.neon.smull.v8i16",
                        take("int8x8", typed(weight, "int8", _BYTES)),
                        take("int8x8", activation),
                    )
                    products = product if products is None else products + product
                totals[half] = totals[half] + T.call_llvm_pure_intrin(
                    "int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products
                )
        return totals
