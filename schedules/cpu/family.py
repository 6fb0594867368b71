"""The families whose kernels are an engine on a vector instruction set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.errors import Error
from gq_tvm.schedules.cpu.engine import Engine
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS, InstructionSet
from gq_tvm.schedules.cpu.loops.gru import GRUCell
from gq_tvm.schedules.cpu.loops.linear import linear
from gq_tvm.schedules.cpu.loops.lstm import LSTMCell
from gq_tvm.schedules.cpu.loops.recurrent import Cell, gate_order, recurrent
from gq_tvm.schedules.epilogue import Epilogue, glu_order
from gq_tvm.schedules.family import Choice, Family, Levels, Product, shared_codebook
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target


@dataclass(frozen=True)
class VectorFamily(Family):
    """An engine on every vector instruction set, with the loops of ``linear`` and ``recurrent``.

    Attributes:
        name: What ``--kernel`` and ``inspect`` call it.
        activation: What its engine computes with; see `arithmetic`.
        engines: The arithmetic; the first that supports a product is made for each kernel, whose
            buffers it holds.
        approximate: See `Family`; it takes products trained with any activations.
        baseline: The same.
    """

    name: str
    activation: str
    engines: tuple[type[Engine], ...]
    approximate: bool = False
    baseline: bool = False

    def supports(self, target: Target, product: Product) -> bool:
        if target.instruction_set not in INSTRUCTION_SETS:
            return False
        if not self._able(INSTRUCTION_SETS[target.instruction_set], product):
            return False
        if product.activation != self.activation and not (self.baseline or self.approximate):
            return False
        return replace(product, activation=self.activation).fits_int32

    def exact(self, product: Product) -> bool:
        return super().exact(product) and product.activation == self.arithmetic(product)

    def shares(self, other: Family) -> bool:
        return isinstance(other, VectorFamily)

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
        arithmetic = self.arithmetic(product)
        table, scale = shared_codebook(replace(product, activation=arithmetic), codebook)
        order = self._order(target, product, schedule)
        if order is not None:
            indices, scale = indices[order], _in_order(scale, order)
        levels = Levels(table[None], scale[:, None])
        return self._engine(target, product, schedule).operands(indices, levels)

    def pack_bias(
        self, target: Target, product: Product, schedule: Schedule, bias: NDArray
    ) -> NDArray[np.float32]:
        order = self._order(target, product, schedule)
        bias = bias.astype(np.float32) if order is None else _in_order(bias, order)
        padded = self._engine(target, product, schedule).padded_n
        return np.pad(bias, (0, padded - len(bias)))

    def space(self, target: Target, product: Product) -> list[Schedule]:
        isa = INSTRUCTION_SETS[target.instruction_set]
        space = self._able(isa, product)[0].space(isa, product)
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

    def lstm(
        self,
        target: Target,
        x_part: Choice,
        h_part: Choice,
        steps: int | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        return _recurrent(LSTMCell, target, x_part, h_part, steps, parallel)

    def gru(
        self,
        target: Target,
        x_part: Choice,
        h_part: Choice,
        steps: int | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        return _recurrent(GRUCell, target, x_part, h_part, steps, parallel)

    def _able(self, isa: InstructionSet, product: Product) -> list[type[Engine]]:
        return [one for one in self.engines if one.supports(isa, product)]

    def _engine(self, target: Target, product: Product, schedule: Schedule) -> Engine:
        order = self._order(target, product, schedule)
        n = product.n if order is None else len(order)
        isa = INSTRUCTION_SETS[target.instruction_set]
        return self._make(isa, n, product, schedule)

    def _make(self, isa: InstructionSet, n: int, product: Product, schedule: Schedule) -> Engine:
        return self._able(isa, product)[0](isa, replace(product, n=n), schedule)

    def _order(
        self, target: Target, product: Product, schedule: Schedule
    ) -> NDArray[np.int64] | None:
        """The source row of each packed row, -1 for padding; None if they stay in order."""
        lanes = INSTRUCTION_SETS[target.instruction_set].lanes
        if product.gates:
            return gate_order(product.n // product.gates, lanes, product.gates)
        return glu_order(product.n, lanes, schedule.vectors) if product.glu else None


def _recurrent(
    cell: type[Cell],
    target: Target,
    x_part: Choice,
    h_part: Choice,
    steps: int | None,
    parallel: bool,
) -> tirx.PrimFunc:
    x_engine, h_engine = _engine_of(target, x_part), _engine_of(target, h_part)
    return recurrent(cell, x_engine, h_engine, h_part.product.k, steps, parallel)


def _engine_of(target: Target, part: Choice) -> Engine:
    if not isinstance(part.family, VectorFamily):
        raise Error(
            f"kernel {part.family.name} cannot share a recurrent layer with a vector kernel; ask "
            "for one kernel with --kernel"
        )
    return part.family._engine(target, part.product, part.schedule)


def _in_order(per_row: NDArray, order: NDArray[np.int64]) -> NDArray[np.float32]:
    """Values [N] at the rows of ``order``, zero where it has none."""
    return np.where(order < 0, np.float32(0), per_row[order])
