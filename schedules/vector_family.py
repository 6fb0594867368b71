"""The families whose kernels are an engine on a vector instruction set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.schedules.engine import Engine
from gq_tvm.schedules.family import Family, Product, shared_codebook
from gq_tvm.schedules.instruction_sets import INSTRUCTION_SETS
from gq_tvm.schedules.linear import linear
from gq_tvm.schedules.recurrence import gate_order, recurrence
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target


@dataclass(frozen=True)
class VectorFamily(Family):
    """An engine on every vector instruction set, with the loops of ``linear`` and ``recurrence``.

    Attributes:
        name: What ``--kernel`` and ``inspect`` call it.
        activation: What its engine computes with.
        engines: The arithmetic; the first that supports a product is made for each kernel, whose
            buffers it holds.
        approximate: Its results are off by more than rounding: taken only by name, and for
            products trained with any activations.
        baseline: It takes products trained with other activations as well: only for comparison.
    """

    name: str
    activation: str
    engines: Sequence[type[Engine]]
    approximate: bool = False
    baseline: bool = False

    def supports(self, target: Target, product: Product) -> bool:
        if target.instruction_set not in INSTRUCTION_SETS:
            return False
        if self._kind(target, product) is None:
            return False
        if product.activation != self.activation and not (self.baseline or self.approximate):
            return False
        return replace(product, activation=self.activation).fits_int32

    def pack(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        indices: NDArray[np.uint8],
        codebook: NDArray[np.float32],
    ) -> dict[str, NDArray]:
        table, scale = shared_codebook(replace(product, activation=self.activation), codebook)
        if product.recurrent:
            order = gate_order(product.k, INSTRUCTION_SETS[target.instruction_set].lanes)
            indices, scale = indices[order], np.where(order < 0, np.float32(0), scale[order])
        return self._engine(target, product, schedule).operands(indices, table, scale)

    def space(self, target: Target, product: Product) -> list[Schedule]:
        kind = self._kind(target, product)
        assert kind is not None
        return kind.space(INSTRUCTION_SETS[target.instruction_set], product)

    def linear(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        epilogue: str | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        return linear(self._engine(target, product, schedule), product.rows, epilogue, parallel)

    def recurrence(
        self, target: Target, product: Product, schedule: Schedule, parallel: bool = False
    ) -> tirx.PrimFunc:
        return recurrence(self._engine(target, product, schedule), product.k, parallel)

    def _kind(self, target: Target, product: Product) -> type[Engine] | None:
        isa = INSTRUCTION_SETS[target.instruction_set]
        return next((one for one in self.engines if one.supports(isa, product)), None)

    def _engine(self, target: Target, product: Product, schedule: Schedule) -> Engine:
        isa = INSTRUCTION_SETS[target.instruction_set]
        n = len(gate_order(product.k, isa.lanes)) if product.recurrent else product.n
        kind = self._kind(target, product)
        assert kind is not None
        return kind(isa, n, product.k, product.bits, schedule)
