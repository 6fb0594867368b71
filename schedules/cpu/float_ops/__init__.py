"""Kernels of float operators: vector code for what TVM leaves as plain loops."""

from __future__ import annotations

from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS
from gq_tvm.targets import Target
from gq_tvm.targets.instruction_sets import ISAS

_LEAST = 4  # lanes: every 64-bit CPU has vectors of 128 bits, and LLVM splits them where not
_REGISTERS = 16  # at least


def registers_of(target: Target) -> int:
    """Vector registers of the machine, of which tiles take half."""
    isa = ISAS.get(target.instruction_set)
    return isa.registers if isa is not None else _REGISTERS


def lanes_of(target: Target) -> int:
    """32-bit lanes of the vectors float kernels for `target` are written in."""
    isa = INSTRUCTION_SETS.get(target.instruction_set)
    return isa.lanes if isa is not None else _LEAST
