"""The families whose kernels are an engine on a vector instruction set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.errors import Error
from gq_tvm.ops.checks_recurrent import LAYERS
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules.cpu.engine import KNOBS, Engine
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS
from gq_tvm.schedules.cpu.instruction_sets.base import Lanes
from gq_tvm.schedules.cpu.loops.cells import CELLS, ProjectedLSTMCell
from gq_tvm.schedules.cpu.loops.linear import linear
from gq_tvm.schedules.cpu.loops.recurrent import gate_order, recurrent
from gq_tvm.schedules.cpu.outliers import TileOutliers
from gq_tvm.schedules.epilogue import Epilogue, glu_order
from gq_tvm.schedules.family import Choice, Family, Frames, Product
from gq_tvm.schedules.levels import Levels, in_order
from gq_tvm.schedules.schedule import Knob, Schedule
from gq_tvm.schedules.windows import Windows
from gq_tvm.targets import Target


@dataclass(frozen=True)
class VectorFamily(Family):
    """An engine on every vector instruction set, with the loops of ``linear`` and ``recurrent``.

    Attributes:
        name: What ``--kernel`` and ``inspect`` call it.
        arithmetics: What its engines compute with; a product trained for none of these is computed
            in the first.
        engines: The first that supports a product is made for each kernel, whose buffers it holds.
        approximate: See `Family`; it takes products trained with any activations.
        baseline: The same.
    """

    name: str
    arithmetics: tuple[str, ...]
    engines: tuple[type[Engine], ...]
    approximate: bool = False
    baseline: bool = False

    loops: ClassVar[str] = "vectors"
    knobs: ClassVar[tuple[Knob, ...]] = KNOBS

    def arithmetic(self, product: Product) -> str:
        trained = product.activation
        return trained if trained in self.arithmetics else self.arithmetics[0]

    def machine(self, target: Target) -> Lanes | None:
        """What the engines are for; None where there are none."""
        return INSTRUCTION_SETS.get(target.instruction_set)

    def supports(self, target: Target, product: Product) -> bool:
        if self.machine(target) is None:
            return False
        if product.activation not in self.arithmetics and not self.only_by_name:
            return False
        return self._computed(product).fits_int32 and bool(self._able(target, product))

    def space(self, target: Target, product: Product) -> list[Schedule]:
        able = self._able(target, product)[0]
        space = map(self.schedule, able.space(self.machine(target), product))
        # A value of a GLU and its gate are vectors of the same tile.
        return [one for one in space if one["vectors"] % 2 == 0 or not product.glu]

    def features(self, choice: Choice) -> list[float]:
        product, schedule = choice.product, choice.schedule
        return [
            *super().features(choice),
            product.n / schedule["vectors"] % 1,  # work on padding
            product.usual_rows % schedule["rows"],  # rows that go one by one
            schedule["vectors"] * min(schedule["rows"], product.usual_rows),  # accumulators
        ]

    def pack(self, choice: Choice, weight: Weight) -> dict[str, NDArray]:
        if choice.product.of(weight) != choice.product:
            raise Error("its rows are not multiples of one codebook; convert the model again")
        levels, indices = Levels.of(weight, choice.arithmetic), weight.indices
        order = self._order(choice)
        if order is not None:
            indices, levels = indices[order], levels.in_order(order)
        engine = self.engine(choice)
        operands = engine.operands(indices, levels)
        kept = TileOutliers.of(engine)
        if kept is not None:
            assert weight.outliers is not None
            operands |= kept.operands(weight.outliers, weight.width, order)
        return operands

    def pack_bias(self, choice: Choice, bias: NDArray) -> NDArray[np.float32]:
        order = self._order(choice)
        bias = bias.astype(np.float32)
        if order is not None:
            bias = in_order(bias, order)
        return np.pad(bias, (0, self.engine(choice).padded_n - len(bias)))

    def linear(
        self,
        choice: Choice,
        epilogue: Epilogue | None = None,
        parallel: bool = False,
        windows: Windows | None = None,
    ) -> tirx.PrimFunc:
        engine, product = self.engine(choice), choice.product
        return linear(engine, product.rows, product.outputs, epilogue, parallel, windows)

    def _recurrent(
        self, name: str, parts: Sequence[Choice], frames: Frames, parallel: bool
    ) -> tirx.PrimFunc:
        engines = [cast(VectorFamily, one.family).engine(one) for one in parts]
        product, kind = parts[1].product, LAYERS[name]
        cell = ProjectedLSTMCell if len(parts) > 2 else CELLS[kind.cell]
        return recurrent(
            cell, engines, product.n // product.gates, frames, parallel, functions=kind.functions
        )

    def engine(self, choice: Choice) -> Engine:
        """The engine of a kernel, made anew."""
        product, order = self._computed(choice.product), self._order(choice)
        if order is not None:
            product = replace(product, n=len(order))
        isa = self._machine(choice.target)
        return self._able(choice.target, product)[0](isa, product, choice.schedule)

    def _computed(self, product: Product) -> Product:
        """`product` in the arithmetic of this family."""
        return replace(product, activation=self.arithmetic(product))

    def _machine(self, target: Target) -> Lanes:
        machine = self.machine(target)
        assert machine is not None, f"{self.name} has no kernels for {target.name}"
        return machine

    def _able(self, target: Target, product: Product) -> list[type[Engine]]:
        isa, computed = self.machine(target), self._computed(product)
        return [one for one in self.engines if one.supports(isa, computed)]

    def _order(self, choice: Choice) -> NDArray[np.int64] | None:
        """The source row of each packed row, -1 for padding; None if they stay in order."""
        product, lanes = choice.product, self._machine(choice.target).lanes
        if product.gates:
            return gate_order(product.n // product.gates, lanes, product.gates)
        return glu_order(product.n, lanes, choice.schedule["vectors"]) if product.glu else None
