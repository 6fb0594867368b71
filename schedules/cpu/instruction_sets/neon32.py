"""NEON of 32-bit ARM (Armv7-A, and AArch32 of Armv8-A): 16 registers of 128 bits.

``VTBL`` looks 8 bytes up in 8 to 32 and finds 0 beyond them; ``VTBX`` keeps what was there, which
chains tables of 32. ``VMULL`` and ``VMLAL`` add two products in int16 (at most 32258, exact) and
``VPADAL`` folds them into int32. Tables, packing and chains of shifts are those of 64 bits.

Vector arithmetic on floats takes subnormal numbers for zero and makes none, whatever the mode of
the CPU; arithmetic on scalars is IEEE's. (Arm ARM DDI 0406C, A2.7 and A8.8: VTBL, VTBX, VMULL,
VMLAL, VPADAL, VPADDL, VSLI, VSRI, VCNT.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.instruction_sets.base import Expr, Loader, typed
from gq_tvm.schedules.cpu.instruction_sets.neon import NeonDot

_BYTES = 16
_HALF = 8
_TABLE = 32  # bytes of the largest that one instruction reads


def _halves(vector: Expr, dtype: str = "uint8x8") -> list[Expr]:
    return [T.vectorlow(dtype, vector), T.vectorhigh(dtype, vector)]


def _whole(halves: Sequence[Expr]) -> Expr:
    return tirx.Shuffle(list(halves), list(range(_BYTES)))


class Neon32(NeonDot):
    """128-bit vectors, VTBL over 16 and 32 entries, int8 products in pairs."""

    name = "neon32"
    # Of int8, a second row's sums would go to memory and cost more than its look-ups: 72
    # instructions a row for 128 weights of 4 bits against 63. Of fp32, look-ups are most of it.
    tile_vectors = 2
    tile_rows: ClassVar[dict[str, int]] = {"int8": 1, "fp32": 4}
    rounds = False
    halves = False  # VFPv4 has it, Cortex-A8 not
    live_counters = 8
    partial_sums = 2
    dot_groups = 2

    def insert(self, kept: Expr, inserted: Expr, size: int, down: bool) -> Expr:
        shift = T.broadcast(T.int8(-size if down else size), _BYTES)
        return T.call_llvm_pure_intrin(
            "uint8x16", "llvm.arm.neon.vshiftins.v16i8", kept, inserted, shift
        )

    def look_up_bytes(self, bits: int, table: Sequence[Expr], index: Expr) -> Expr:
        index = T.bitwise_and(index, self.constant_bytes(16 * len(table) - 1))
        words = [half for vector in table for half in _halves(vector)]
        if len(words) == 2:
            return _whole([_table("vtbl2", *words, half) for half in _halves(index)])
        found: Sequence[Expr] = []
        for start in range(0, len(words), 4):
            part, index = words[start : start + 4], T.bind(index)
            if start == 0:
                found = [_table("vtbl4", *part, half) for half in _halves(index)]
            else:
                pairs = zip(found, _halves(index), strict=True)
                found = [_table("vtbx4", old, *part, half) for old, half in pairs]
            index = index - self.constant_bytes(_TABLE)
        return _whole(found)

    def activations(self, load: Loader, groups: int) -> Sequence[Expr]:
        # VMULL takes no byte by lane: a group is spread over a register of 64 bits.
        if groups == 1:
            return [T.bind(typed(T.broadcast(T.reinterpret("int32", load(0, 4)), 2), "int8", 8))]
        words = T.bind(typed(load(0, 4 * groups), "int32", groups))
        return [
            T.bind(typed(tirx.Shuffle([words, words], [group] * 2), "int8", _HALF))
            for group in range(groups)
        ]

    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        totals = list(sums)
        groups = list(zip(weights, activations, strict=True))
        for pair in zip(groups[::2], groups[1::2], strict=True):
            products: list[Expr] = [None, None]
            for weight, activation in pair:
                for half, part in enumerate(_halves(typed(weight, "int8", _BYTES), "int8x8")):
                    product = T.call_llvm_pure_intrin(
                        "int16x8", "llvm.arm.neon.vmulls.v8i16", part, activation
                    )
                    before = products[half]
                    products[half] = product if before is None else before + product
            for half in (0, 1):
                totals[half] = T.call_llvm_pure_intrin(
                    "int32x4", "llvm.arm.neon.vpadals.v4i32.v8i16", totals[half], products[half]
                )
        return totals

    def total(self, sums: Sequence[Expr]) -> Expr:
        added = [
            T.call_llvm_pure_intrin(
                "int32x2", "llvm.arm.neon.vpadd.v2i32", *_halves(one, "int32x2")
            )
            for one in sums
        ]
        return tirx.Shuffle(added, list(range(4)))

    def fold_counts(self, counters: Expr) -> Expr:
        pairs = T.call_llvm_pure_intrin("uint16x8", "llvm.arm.neon.vpaddlu.v8i16.v16i8", counters)
        return T.call_llvm_pure_intrin("int32x4", "llvm.arm.neon.vpaddlu.v4i32.v8i16", pairs)


def _table(name: str, *operands: Expr) -> Expr:
    return T.call_llvm_pure_intrin("uint8x8", f"llvm.arm.neon.{name}", *operands)
