"""The families whose kernels are an engine on a vector instruction set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.schedules.engine import Engine
from gq_tvm.schedules.epilogue import Epilogue, glu_order
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

    def pack(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        indices: NDArray[np.uint8],
        codebook: NDArray[np.float32],
    ) -> dict[str, NDArray]:
        table, scale = shared_codebook(replace(product, activation=self.activation), codebook)
        order = self._order(target, product, schedule)
        if order is not None:
            indices, scale = indices[order], _in_order(scale, order)
        return self._engine(target, product, schedule).operands(indices, table, scale)

    def pack_bias(
        self, target: Target, product: Product, schedule: Schedule, bias: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        order = self._order(target, product, schedule)
        bias = bias if order is None else _in_order(bias, order)
        padded = self._engine(target, product, schedule).padded_n
        return np.pad(bias, (0, padded - len(bias)))

    def space(self, target: Target, product: Product) -> list[Schedule]:
        space = self.engine.space(INSTRUCTION_SETS[target.instruction_set], product)
        # A value of a GLU and its gate are vectors of the same tile.
        return [one for one in space if one.vectors % 2 == 0] if product.glu else space

    def linear(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        epilogue: Epilogue | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        engine = self._engine(target, product, schedule)
        return linear(engine, product.rows, product.outputs, epilogue, parallel)

    def recurrence(
        self, target: Target, product: Product, schedule: Schedule, parallel: bool = False
    ) -> tirx.PrimFunc:
        return recurrence(self._engine(target, product, schedule), product.k, parallel)

    def _engine(self, target: Target, product: Product, schedule: Schedule) -> Engine:
        order = self._order(target, product, schedule)
        n = product.n if order is None else len(order)
        isa = INSTRUCTION_SETS[target.instruction_set]
        return self.engine(isa, n, product.k, product.bits, schedule)

    def _order(
        self, target: Target, product: Product, schedule: Schedule
    ) -> NDArray[np.int64] | None:
        """The source row of each packed row, -1 for padding; None if they stay in order."""
        lanes = INSTRUCTION_SETS[target.instruction_set].lanes
        if product.recurrent:
            return gate_order(product.k, lanes)
        return glu_order(product.n, lanes, schedule.vectors) if product.glu else None


def _in_order(per_row: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.where(order < 0, np.float32(0), per_row[order])
