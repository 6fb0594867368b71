"""NEON (Advanced SIMD), with and without the dot product of Armv8.2.

``TBL`` looks 16, 32 or 64 bytes up; ``TBX`` keeps the lanes whose index is out of range, which
chains two tables to 128. Without ``SDOT``, two ``SMULL`` are added in int16 (at most 32258, exact)
and folded into int32 by ``SADALP``. ``CNT`` counts the bits of bytes. (Arm ARM DDI 0487, C7.2 TBL,
TBX, SDOT, SMLAL, SADALP, CNT, UADDLP.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.instruction_sets.base import (
    Expr,
    Gather,
    InstructionSet,
    Loader,
    typed,
    zip_lanes,
)

_BYTES = 16
_FLOATS = 4


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

    def byte_table(self, values: np.ndarray, reads: Sequence[int]) -> np.ndarray:
        return np.pad(values, (0, max(0, 16 - len(values))))

    def load_byte_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        return [T.bind(load(i * _BYTES, _BYTES)) for i in range(max(1, 2**bits // 16))]

    def look_up_bytes(self, bits: int, table: Sequence[Expr], index: Expr) -> Expr:
        index = T.bitwise_and(index, self.constant_bytes(2**bits - 1))
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
                typed(T.broadcast(activation, _FLOATS), "int8", _BYTES),
            )
        return [total]

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
        planes = values.astype("<f4").view(np.uint8).reshape(-1, 4).T
        return np.pad(planes, ((0, 0), (0, max(0, 16 - len(values))))).reshape(-1)

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
                        typed(T.broadcast(activation, 2), "int8", 8),
                    )
                    products = product if products is None else products + product
                totals[half] = totals[half] + T.call_llvm_pure_intrin(
                    "int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products
                )
        return totals

    def total(self, sums: Sequence[Expr]) -> Expr:
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.addp.v4i32", sums[0], sums[1])
