"""The family without vector instructions: runs on any LLVM target, checks the vector kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gq_tvm.schedules.cpu.family import VectorFamily
from gq_tvm.schedules.cpu.instruction_sets.base import Lanes
from gq_tvm.schedules.schedule import Knob
from gq_tvm.targets import Target


@dataclass(frozen=True)
class Scalar(VectorFamily):
    """The loops of the vector families with vectors of one lane, on every target."""

    loops: ClassVar[str] = "scalars"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Knob("vectors", 4, layout=True),
        Knob("rows", 4),
        Knob("block", 16),
    )

    def machine(self, target: Target) -> Lanes:
        return Lanes()
