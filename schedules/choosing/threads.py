"""Which products are large enough for several threads."""

from __future__ import annotations

from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS
from gq_tvm.schedules.family import Choice
from gq_tvm.targets import Target

#: Vector multiplications below which other threads are of little use: starting them takes 1 to 3
#: us, in which a core does several thousand.
_LEAST = 2**14
_WEIGHTS = {"fp32": 1, "int8": 4, "int2": 16, "int1": 32}  # a lane takes at once
_ROWS = 4  # taken for a number of rows known only at run time: a streaming chunk


def worth_threads(choice: Choice) -> bool:
    """Whether a kernel should deal its tiles out to threads.

    A recurrent layer starts them anew at each step, of one row.
    """
    product = choice.product
    rows = 1 if product.gates else product.rows if product.rows is not None else _ROWS
    return large_enough(choice.target, product.n * product.k * rows, choice.arithmetic)


def large_enough(target: Target, products: int, arithmetic: str) -> bool:
    """Whether so many products of a weight and an activation are worth several threads."""
    isa = INSTRUCTION_SETS.get(target.instruction_set)
    if isa is None:
        return False  # scalar kernels know of no threads
    return products >= _LEAST * isa.lanes * _WEIGHTS[arithmetic]
