"""NEON with int8 matrix multiplication (Armv8.6-A, all of Armv9-A).

``SMMLA`` multiplies 2 x 8 by 8 x 2 bytes: twice the products of an ``SDOT``, for two rows of
activations. Its operand is 8 k of 2 outputs, and so a sub-vector holds those; of one row ``SDOT``
takes the same operand and leaves two sums an output. (Arm ARM DDI 0487, C7.2 SMMLA, FEAT_I8MM.)
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.instruction_sets.base import Expr, Loader
from gq_tvm.schedules.cpu.instruction_sets.neon import NeonDot

_HALF = 8


class NeonMatrix(NeonDot):
    """128-bit vectors, TBL, int8 products of pairs of rows (SMMLA) or of one (SDOT)."""

    name = "neon-i8mm"
    byte_order = "octet"
    partial_sums = 2
    dot_groups = 2

    def activations(self, load: Loader, groups: int) -> Sequence[Expr]:
        return [T.bind(load(_HALF * pair, _HALF)) for pair in range(groups // 2)]

    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        totals = list(sums)
        for pair, activation in enumerate(activations):
            twice = tirx.Shuffle([activation, activation], list(range(2 * _HALF)))
            for half, weight in enumerate(weights[2 * pair : 2 * pair + 2]):
                (totals[half],) = super().dot([totals[half]], [weight], [twice])
        return totals

    def sums_of(self, rows: int) -> int:
        return 2 * -(-rows // 2)

    def dot_rows(
        self,
        sums: Sequence[Expr],
        weights: Sequence[Expr],
        activations: Sequence[Sequence[Expr]],
    ) -> Sequence[Expr]:
        made: list[Expr] = []
        for row in range(0, len(activations), 2):
            two = list(sums[row : row + 2])
            if row + 1 == len(activations):
                made += self.dot(two, weights, activations[row])
                continue
            for pair, both in enumerate(zip(*activations[row : row + 2], strict=True)):
                rows = T.bind(tirx.Shuffle(list(both), list(range(2 * _HALF))))
                for half, weight in enumerate(weights[2 * pair : 2 * pair + 2]):
                    two[half] = _multiply(two[half], rows, weight)
            made += two
        return made

    def totals(self, sums: Sequence[Expr], rows: int) -> Sequence[Expr]:
        made = []
        for row in range(0, rows, 2):
            two = list(sums[row : row + 2])
            if row + 1 == rows:
                made.append(self.total(two))
            else:  # two outputs of either row in each
                made += [tirx.Shuffle(two, lanes) for lanes in ([0, 1, 4, 5], [2, 3, 6, 7])]
        return made


def _multiply(total: Expr, rows: Expr, weight: Expr) -> Expr:
    """Add a 2 x 2 tile: int32 [row, output] of int8 [row, 8] and uint8 bits [output, 8]."""
    weight = T.reinterpret("int8x16", weight)
    name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
    return T.call_llvm_pure_intrin("int32x4", name, total, rows, weight)
