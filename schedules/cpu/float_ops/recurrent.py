"""Recurrent layers with float weights: the loops of ``loops.recurrent`` around float products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.ops.checks_recurrent import CELLS as FACTS
from gq_tvm.schedules.cpu.engines.dense_f32 import FloatEngine
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS, InstructionSet
from gq_tvm.schedules.cpu.instruction_sets.base import Lanes
from gq_tvm.schedules.cpu.loops.cells import CELLS, ProjectedLSTMCell
from gq_tvm.schedules.cpu.loops.recurrent import gate_order, recurrent
from gq_tvm.schedules.family import Frames, Product
from gq_tvm.schedules.levels import in_order
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target

_BLOCK = 16  # frames of an x-part


@dataclass(frozen=True)
class FloatRecurrent:
    """One layer in one direction; see ``ops.reference_recurrent.recurrent``.

    Attributes:
        target: The device.
        cell: One of ``ops.checks_recurrent.CELLS``.
        width: I.
        hidden: H.
        projected: P of an LSTM with a projection, else 0.
        frames: Which there are, in which order.
        functions: Its activation functions, "" for the usual ones.
        clip: Their limit.
    """

    target: Target
    cell: str
    width: int
    hidden: int
    projected: int
    frames: Frames
    functions: str
    clip: float

    def kernel(self, parallel: bool = False) -> tirx.PrimFunc:
        """The kernel; for its arguments see ``loops.recurrent.recurrent``."""
        return recurrent(
            ProjectedLSTMCell if self.projected else CELLS[self.cell],
            self._engines(),
            self.hidden,
            self.frames,
            parallel,
            functions=self.functions,
            clip=self.clip,
        )

    def operands(
        self,
        weight_ih: NDArray,
        weight_hh: NDArray,
        bias_ih: NDArray | None,
        bias_hh: NDArray | None,
        weight_hr: NDArray | None,
    ) -> dict[str, NDArray]:
        """Lay the weights and biases out, in the order the kernel takes them."""
        kind, engines = CELLS[self.cell], self._engines()
        weights = [weight_ih, weight_hh]
        if kind.gates_of_h:
            weights[1:] = np.split(weight_hh, [kind.gates_of_h * self.hidden])
        if weight_hr is not None:
            weights.append(weight_hr)
        names = ("weight_ih", "weight_hh", f"weight_{kind.behind or 'hr'}")
        made = {
            name: engine.tiled(self._in_order(weight, engine, gates))
            for name, engine, weight, gates in zip(
                names, engines, weights, self._gates(), strict=False
            )
        }
        rows = FACTS[self.cell].gates * self.hidden
        biases = [np.zeros(rows, np.float32) if b is None else b for b in (bias_ih, bias_hh)]
        if kind.biases == 1:
            biases = [biases[0] + biases[1]]
        for name, bias, engine in zip(("bias_ih", "bias_hh"), biases, engines, strict=False):
            ordered = self._in_order(bias, engine, self._gates()[0])
            made[name] = np.pad(ordered, (0, engine.padded_n - len(ordered)))
        return made

    @property
    def _isa(self) -> Lanes:
        return INSTRUCTION_SETS.get(self.target.instruction_set) or Lanes()

    def _gates(self) -> list[int]:
        """Gates of the products: x-part, h-part, and what is behind; 0: rows are in order."""
        gates, kind = FACTS[self.cell].gates, CELLS[self.cell]
        return [gates, kind.gates_of_h or gates, 1 if kind.behind else 0]

    def _engines(self) -> list[FloatEngine]:
        """Those of these products, made anew."""
        isa, state = self._isa, self.projected or self.hidden
        sizes = [(self.hidden, self.width), (self.hidden, state)]
        if CELLS[self.cell].behind or self.projected:
            sizes.append((state, self.hidden))
        rows = isa.tile_rows["fp32"] if isinstance(isa, InstructionSet) else 1
        made = []
        for number, ((units, k), gates) in enumerate(zip(sizes, self._gates(), strict=False)):
            n = len(gate_order(units, isa.lanes, gates)) if gates else units
            schedule = Schedule(
                vectors=4, rows=1 if number else rows, block=_BLOCK, unroll=1, prefetch=0
            )
            product = Product(n, k, 8, "fp32", 1 if number else None, gates)
            made.append(FloatEngine(isa, product, schedule))
        return made

    def _in_order(self, rows: NDArray, engine: FloatEngine, gates: int) -> NDArray:
        """Rows as the gates of units, those that fill up being 0."""
        if not gates:
            return rows
        return in_order(rows, gate_order(len(rows) // gates, engine.lanes, gates))
