"""gq-tvm's kernels for a core: every family that has one, as the compiler schedules it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

import tvm
from numpy.typing import NDArray

from benchmarks.arm.candidate import INPUTS, OUTPUTS, Call, Candidate
from gq_tvm import targets
from gq_tvm.schedules import Family, Product, Schedule, families_for
from gq_tvm.schedules.choosing.chooser import Chooser
from gq_tvm.schedules.choosing.database import load
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS
from gq_tvm.targets import Target
from gq_tvm.toolchain.linker import export
from gq_tvm.tuning.case import Case
from gq_tvm.tuning.task import Task

SYSTEM = "gq-tvm"

_NAME = "kernel"
# What is modelled: bit-widths, by what the activations are rounded to.
_BITS = {"int8": range(8, 0, -1), "fp32": (4, 2), "int2": (2, 1), "int1": (2, 1)}
_WIDTH = {"dense_int8": 8, "dense_f32": 32}  # of a weight a baseline reads, whatever its product's
_SCALAR = "scalar"  # plain loops, for machines without vector code
_NO_USER = Path("none.json")  # the schedules that are shipped, whatever was tuned here
_compiler = Lock()


def candidates(target: Target, rows: int) -> Iterator[Candidate]:
    """Every family at every bit-width with int8 activations, some with others, the baselines."""
    if target.instruction_set not in INSTRUCTION_SETS:
        return
    chooser = Chooser(target, load(target, user=_NO_USER))
    for activation, widths in _BITS.items():
        for bits in widths:
            product = Product(OUTPUTS, INPUTS, bits, activation, rows)
            families = [
                one
                for one in families_for(target, product)
                # A baseline expands its weights: the bits make no difference.
                if one.name != _SCALAR and one.exact(product)
                if not one.baseline or bits == max(widths)
            ]
            taken = _taken(chooser, product, families)
            for family in families:
                schedule = chooser.choice(family, product).schedule
                yield Candidate(
                    SYSTEM, family.name, _WIDTH.get(family.name, bits), activation, "any",
                    str(schedule), family.name == taken,
                    partial(_prepare, Task(target.name, family.name, product), schedule),
                )  # fmt: skip


def _taken(chooser: Chooser, product: Product, families: Sequence[Family]) -> str:
    """The family that the compiler chooses for a layer."""
    able = [one for one in families if not one.baseline]
    (best,) = chooser.best([product], [able])
    return best.family.name


def _prepare(task: Task, schedule: Schedule, folder: Path) -> Call:
    target, path = targets.get(task.target), folder / "kernel.so"
    with _compiler:
        module = tvm.IRModule({_NAME: task.kernel(schedule).with_attr("global_symbol", _NAME)})
        # Without the checks of arguments, which are no part of the product.
        with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
            built = tvm.compile(module, target=target.tvm)
        export(built, path, target.triple)
        case = Case(task)
        inputs, outputs = case.arguments(schedule)

    def wrong(y: NDArray) -> str:
        return case.wrong([y])

    size = sum(array.nbytes for array in inputs[1:])
    return Call(path, _NAME, [*inputs, *outputs], size, wrong)
