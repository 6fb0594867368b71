"""The vector instruction sets kernels can be written in: one file and one entry each."""

from __future__ import annotations

from gq_tvm.schedules.cpu.instruction_sets.avx2 import Avx2
from gq_tvm.schedules.cpu.instruction_sets.avx512 import Avx512
from gq_tvm.schedules.cpu.instruction_sets.base import InstructionSet
from gq_tvm.schedules.cpu.instruction_sets.neon import Neon, NeonDot
from gq_tvm.schedules.cpu.instruction_sets.neon32 import Neon32
from gq_tvm.schedules.cpu.instruction_sets.neon_i8mm import NeonMatrix

INSTRUCTION_SETS: dict[str, InstructionSet] = {
    isa.name: isa for isa in (Avx512(), Avx2(), NeonMatrix(), NeonDot(), Neon(), Neon32())
}

__all__ = ["INSTRUCTION_SETS", "InstructionSet"]
