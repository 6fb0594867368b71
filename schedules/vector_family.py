"""The families whose kernels are an engine on a vector instruction set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.schedules.engine import Engine
from gq_tvm.schedules.family import Family, Product, shared_codebook
from gq_tvm.schedules.instruction_sets import INSTRUCTION_SETS, InstructionSet
from gq_tvm.schedules.linear import linear
from gq_tvm.schedules.recurrence import gate_order, recurrence
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target


@dataclass(frozen=True)
class VectorFamily(Family):
    """An engine on every vector instruction set, with the loops of ``linear`` and ``recurrence``.

    Attributes:
        name: What ``--kernel`` and ``inspect`` call it.
        activation: What its engine computes with; see `arithmetic`.
        engine: The arithmetic; one is made for each kernel, whose buffers it holds.
        baseline: It takes products trained with other activations as well: only for comparison.
    """

    name: str
    activation: str
    engine: type[Engine]
    baseline: bool = False

    def supports(self, target: Target, product: Product) -> bool:
        if target.instruction_set not in INSTRUCTION_SETS:
            return False
        if self.baseline:
            return True
        return product.activation == self.activation and product.fits_int32

    def arithmetic(self, product: Product) -> str:
        """The activations its kernels of `product` compute with."""
        return self.activation

    def pack(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        indices: NDArray[np.uint8],
        codebook: NDArray[np.float32],
    ) -> dict[str, NDArray]:
        table, scale = shared_codebook(
            replace(product, activation=self.arithmetic(product)), codebook
        )
        if product.recurrent:
            order = gate_order(product.k, INSTRUCTION_SETS[target.instruction_set].lanes)
            indices, scale = indices[order], np.where(order < 0, np.float32(0), scale[order])
        return self._engine(target, product, schedule).operands(indices, table, scale)

    def space(self, target: Target, product: Product) -> list[Schedule]:
        return self.engine.space(INSTRUCTION_SETS[target.instruction_set], product)

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

    def _engine(self, target: Target, product: Product, schedule: Schedule) -> Engine:
        isa = INSTRUCTION_SETS[target.instruction_set]
        n = len(gate_order(product.k, isa.lanes)) if product.recurrent else product.n
        return self._make(isa, n, product, schedule)

    def _make(self, isa: InstructionSet, n: int, product: Product, schedule: Schedule) -> Engine:
        return self.engine(isa, n, product.k, product.bits, schedule)
