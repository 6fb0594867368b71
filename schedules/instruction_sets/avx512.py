"""AVX-512 with VBMI, VNNI and VPOPCNTDQ (every CPU with the first two has the third).

``vpermb`` looks 64 bytes up in one register and ignores index bits 6 and 7, so tables of fewer
entries are repeated and no index is ever masked. ``vpdpbusd`` multiplies unsigned by signed
bytes: centroids are stored with an offset of 128. (Intel SDM vol. 2, VPERMB, VPERMI2B, VPDPBUSD,
VPOPCNT.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.instruction_sets.base import (
    Expr,
    Gather,
    InstructionSet,
    Loader,
    select_tree,
    typed,
)

_BYTES = 64
_FLOATS = 16
_SELECT = 0xCA  # truth table of vpternlogd for "first operand ? second : third"


class Avx512(InstructionSet):
    """512-bit vectors, byte permutes over 64 and 128 entries, 4-way int8 dot products."""

    name = "avx512"
    vector_bytes = _BYTES
    tile_rows: ClassVar[dict[str, int]] = {"int8": 4, "fp32": 4}
    centroid_offset = 128
    counter = "int32"
    most_counted = 2**26  # 32 bits each

    def join_bits(self, below: int, low: Expr, high: Expr) -> Expr:
        # By name: out of ands and ors LLVM makes two instructions, having simplified the masks.
        mask = typed(self.constant_bytes((1 << below) - 1), "int32", _FLOATS)
        a, b = typed(low, "int32", _FLOATS), typed(high, "int32", _FLOATS)
        joined = T.call_llvm_pure_intrin(
            "int32x16", "llvm.x86.avx512.pternlog.d.512", mask, a, b, T.int32(_SELECT)
        )
        return typed(joined, "uint8", _BYTES)

    def byte_table(self, values: np.ndarray) -> np.ndarray:
        return np.tile(values, max(1, _BYTES // len(values)))

    def load_byte_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        return [T.bind(load(i * _BYTES, _BYTES)) for i in range(2 if bits == 7 else 1)]

    def look_up_bytes(self, bits: int, table: Sequence[Expr], index: Expr) -> Expr:
        if bits < 7:
            return T.call_llvm_pure_intrin(
                "uint8x64", "llvm.x86.avx512.permvar.qi.512", table[0], index
            )
        return T.call_llvm_pure_intrin(
            "uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", table[0], index, table[1]
        )

    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        total = sums[0]
        for weight, activation in zip(weights, activations, strict=True):
            # LLVM 22 types the operands as bytes, unlike the releases TVM's own intrinsic fits.
            total = T.call_llvm_pure_intrin(
                "int32x16",
                "llvm.x86.avx512.vpdpbusd.512",
                total,
                weight,
                typed(T.broadcast(activation, _FLOATS), "int8", _BYTES),
            )
        return [total]

    def count_bits(self, vector: Expr) -> Expr:
        return T.call_llvm_pure_intrin("int32x16", "llvm.ctpop.v16i32", vector)

    def fold_counts(self, counters: Expr) -> Expr:
        return counters

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
            code = T.bind(
                typed(T.shift_right(words, T.broadcast(T.uint32(8 * depth), _FLOATS)), "int32", 16)
            )
            if not table:
                mask = T.broadcast(T.int32(2**bits - 1), _FLOATS)
                looked_up.append(gather(T.bitwise_and(code, mask)))
                continue
            if bits <= 4:
                found = [
                    T.call_llvm_pure_intrin(
                        "float32x16", "llvm.x86.avx512.permvar.sf.512", table[0], code
                    )
                ]
            else:
                found = [
                    T.call_llvm_pure_intrin(
                        "float32x16", "llvm.x86.avx512.vpermi2var.ps.512", low, code, high
                    )
                    for low, high in zip(table[::2], table[1::2], strict=True)
                ]
            looked_up.append(_select(found, code))
        return looked_up


def _select(found: Sequence[Expr], code: Expr) -> Expr:
    """Pick among looked-up vectors by the index bits from 5 on."""

    def pick(low: Expr, high: Expr, level: int) -> Expr:
        top = T.shift_left(code, T.broadcast(T.int32(31 - 5 - level), _FLOATS))
        mask = T.shift_right(top, T.broadcast(T.int32(31), _FLOATS))  # the bit, in all bits
        a, b = typed(low, "int32", _FLOATS), typed(high, "int32", _FLOATS)
        picked = T.bitwise_xor(a, T.bitwise_and(T.bitwise_xor(a, b), mask))
        return typed(picked, "float32", _FLOATS)

    return select_tree(found, pick)
