"""AVX2 and FMA.

``vpshufb`` looks 16 bytes up; more entries take several look-ups and blends. Without VNNI the
exact int8 dot product is ``vpmaddubsw(|x|, sign(w, x))``: with both factors in [-127, 127] a pair
of products is at most 32258, inside int16. (Intel SDM vol. 2, VPSHUFB, VPSIGNB, VPMADDUBSW.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.instruction_sets.base import (
    Expr,
    Gather,
    InstructionSet,
    Loader,
    select_tree,
    typed,
)

_BYTES = 32
_FLOATS = 8


class Avx2(InstructionSet):
    """256-bit vectors, byte shuffles over 16 entries, int8 products through int16."""

    name = "avx2"
    vector_bytes = _BYTES
    tile_rows: ClassVar[dict[str, int]] = {"int8": 2, "fp32": 2}
    live_counters = 8

    def byte_table(self, values: np.ndarray, reads: Sequence[int]) -> np.ndarray:
        groups = np.tile(values, max(1, 16 // len(values))).reshape(-1, 1, 16)
        return np.tile(groups, (1, 2, 1)).reshape(-1)  # vpshufb sees two separate halves

    def load_byte_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        return [T.bind(load(i * _BYTES, _BYTES)) for i in range(max(1, 2**bits // 16))]

    def look_up_bytes(self, bits: int, table: Sequence[Expr], index: Expr) -> Expr:
        low = T.bind(T.bitwise_and(index, self.constant_bytes(0x0F)))
        found = [
            T.call_llvm_pure_intrin("uint8x32", "llvm.x86.avx2.pshuf.b", group, low)
            for group in table
        ]
        tops = [T.bind(self.move_bits(index, bit - 7)) for bit in range(4, bits)]
        return select_tree(
            found,
            lambda low, high, level: T.call_llvm_pure_intrin(
                "uint8x32", "llvm.x86.avx2.pblendvb", low, high, tops[level]
            ),
        )

    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        total = sums[0]
        ones = T.broadcast(T.int16(1), 16)
        for weight, activation in zip(weights, activations, strict=True):
            x = typed(T.broadcast(activation, _FLOATS), "int8", _BYTES)
            magnitude = T.call_llvm_pure_intrin("int8x32", "llvm.abs.v32i8", x, T.bool(False))
            signed = T.call_llvm_pure_intrin(
                "int8x32", "llvm.x86.avx2.psign.b", typed(weight, "int8", _BYTES), x
            )
            pairs = T.call_llvm_pure_intrin(
                "int16x16", "llvm.x86.avx2.pmadd.ub.sw", magnitude, signed
            )
            total = total + T.call_llvm_pure_intrin(
                "int32x8", "llvm.x86.avx2.pmadd.wd", pairs, ones
            )
        return [total]

    # Bits are counted by vpshufb over nibbles, which is what LLVM makes of ctpop.

    def fold_counts(self, counters: Expr) -> Expr:
        pairs = T.call_llvm_pure_intrin(
            "int16x16",
            "llvm.x86.avx2.pmadd.ub.sw",
            counters,
            T.broadcast(T.int8(1), _BYTES),
        )
        return T.call_llvm_pure_intrin(
            "int32x8", "llvm.x86.avx2.pmadd.wd", pairs, T.broadcast(T.int16(1), 16)
        )

    def float_table(self, values: np.ndarray) -> np.ndarray:
        return np.tile(values, max(1, _FLOATS // len(values)))

    def load_float_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        if bits > 6:  # more entries than registers: look_up_floats reads memory
            return []
        return [T.bind(load(i * _FLOATS, _FLOATS)) for i in range(max(1, 2**bits // _FLOATS))]

    def look_up_floats(
        self, bits: int, table: Sequence[Expr], gather: Gather, index: Expr
    ) -> Sequence[Expr]:
        words = typed(index, "uint32", _FLOATS)
        looked_up = []
        for depth in range(4):
            shifted = T.shift_right(words, T.broadcast(T.uint32(8 * depth), _FLOATS))
            code = T.bind(typed(shifted, "int32", _FLOATS))
            if not table:
                mask = T.broadcast(T.int32(2**bits - 1), _FLOATS)
                looked_up.append(gather(T.bitwise_and(code, mask)))
                continue
            found = [
                T.call_llvm_pure_intrin("float32x8", "llvm.x86.avx2.permps", group, code)
                for group in table
            ]
            looked_up.append(_select(found, code))
        return looked_up


def _select(found: Sequence[Expr], code: Expr) -> Expr:
    """Pick among looked-up vectors by the index bits from 3 on (blendv reads sign bits)."""

    def pick(low: Expr, high: Expr, level: int) -> Expr:
        top = T.shift_left(code, T.broadcast(T.int32(31 - 3 - level), _FLOATS))
        return T.call_llvm_pure_intrin(
            "float32x8",
            "llvm.x86.avx.blendv.ps.256",
            low,
            high,
            typed(top, "float32", _FLOATS),
        )

    return select_tree(found, pick)
