"""Whether an artefact computes what the exported program computes in PyTorch.

What its outputs may differ by follows the network. Sums differ by their order in the last bits.
Where activations are rounded to integers that may tip a rounding over, which tips others in the
layers behind it, until a deep network shows the error of all its roundings though each layer is
right. How large that is PyTorch tells, run against itself with what goes into each sum moved a
little (`replay`). Loud noise tips whatever may tip: no right code errs more. Quiet noise, of a few
last bits, leaves some inputs without a tip, and right code still more of them, while wrong code
errs on every input. So an artefact is right if its worst error is no more than that of loud noise,
and its least one no more than that of quiet noise.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.export import ExportedProgram

from gq_tvm import frontend
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.plan.plan import Plan
from gq_tvm.runtime.devices.device import Device
from gq_tvm.runtime.model import load
from gq_tvm.schedules import FAMILIES
from gq_tvm.verification.drawn_inputs import draw, read
from gq_tvm.verification.replay import Replay, activations

FLOOR = 1e-4  # relative L2 error that needs no explanation
LOUD, QUIET = 1000.0, 8.0  # in last bits; compiled code differs by about one
MARGIN = 2.0  # what a bound is, times the error of PyTorch with noise
UNTOLD = 0.5  # a bound above it tells nothing: outputs with nothing in common are 1.4 apart
BOUND_OTHER = 2e-1  # where the artefact rounds and PyTorch has no operator that does
_LOUD_RUNS, _QUIET_RUNS = 4, 8  # at least, over all inputs
_LAST_RUNS = 32  # of loud noise, before an artefact is called wrong: a small network tips seldom

Outputs = Sequence[NDArray]


@dataclass(frozen=True)
class Comparison:
    """A function's outputs against PyTorch's, over all the inputs tried.

    Attributes:
        function: Its name.
        drawn: How many random inputs were tried.
        given: How many inputs of the user's.
        largest: Greatest absolute difference.
        relative: Greatest relative L2 error, of the output that is farthest from right.
        bound: What `relative` may be.
        least: Least relative L2 error of that output.
        least_bound: What `least` may be.
        trained: Where the artefact was compiled with other activations than the model was exported
            with: how far PyTorch is from itself for these two (relative L2). Else None.
    """

    function: str
    drawn: int
    given: int
    largest: float
    relative: float
    bound: float
    least: float
    least_bound: float
    trained: float | None = None

    @property
    def verdict(self) -> str:
        """``"passed"``, ``"failed"``, or ``"undecided"``: noise alone changes outputs wholly."""
        if not (self.relative <= self.bound and self.least <= self.least_bound):
            return "failed"
        return "undecided" if self.least_bound > UNTOLD else "passed"

    def line(self, where: str = "") -> str:
        """The comparison in words; ``where`` follows the function's name."""
        inputs = f"{self.drawn} random inputs" + (f" and {self.given} given" if self.given else "")
        text = (
            f"{self.function}{where}: {self.verdict} with {inputs}: max abs error "
            f"{self.largest:.3g}, relative L2 error {self.relative:.3g} (at most {self.bound:.3g})"
        )
        if self.relative > FLOOR:
            text += f", where least {self.least:.3g} (at most {self.least_bound:.3g})"
        if self.trained is not None:
            text += f"; its activations move PyTorch's own outputs by {self.trained:.3g}"
        return text

    def failure(self) -> str:
        """What is wrong, or why that cannot be told; empty if it passed."""
        if self.verdict == "passed":
            return ""
        if self.verdict == "undecided":
            return (
                f"whether {self.function} is right cannot be told: changes of last bits alone move "
                f"PyTorch's own outputs by {self.least_bound / MARGIN:.3g} (relative L2); give "
                "--inputs it is steadier with, or export fewer layers or steps"
            )
        if self.relative <= self.bound:
            return (
                f"{self.function} differs from PyTorch by {self.least:.3g} or more for every input "
                f"(relative L2, for some at most {self.least_bound:.3g})"
            )
        return (
            f"{self.function} differs from PyTorch by {self.relative:.3g} (relative L2, at most "
            f"{self.bound:.3g})"
        )


@dataclass(frozen=True)
class Report:
    """The comparisons of an artefact's functions."""

    comparisons: list[Comparison]

    def table(self, where: str = "") -> str:
        """A line for each function; ``where`` follows its name."""
        return "\n".join(one.line(where) for one in self.comparisons)

    def failures(self) -> str:
        """What is wrong or cannot be told, in words; empty if all passed."""
        return "; ".join(filter(None, (one.failure() for one in self.comparisons)))


def verify(
    source: Any,
    path: str | os.PathLike[str],
    device: Device | None = None,
    inputs: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> Report:
    """Run the exported programs and the artefact on the same inputs.

    Args:
        source: What the artefact was built from; see `gq_tvm.build`.
        path: The artefact.
        device: Where to run it; None is this process.
        inputs: An ``.npz`` file with more inputs, named as the inputs are (``function.input``
            where there are several functions).
        threads: Of the artefact's calls; None is what it was compiled for.

    Raises:
        Error: the artefact cannot be loaded or the inputs do not fit.
    """
    programs = frontend.read(source).programs
    model = load(path, device, threads)
    given = read(inputs, model.plan) if inputs else {}
    activation, floor = _arithmetic(model.plan, programs)
    comparisons = []
    for name, function in model.plan.functions.items():
        if name not in programs:
            raise Error(f"{path} has a function {name} that the exported model lacks")
        drawn, own = draw(function, programs[name]), given.get(name, [])
        if not (drawn or own):
            raise Error(f"cannot draw inputs for function {name}; give some with --inputs")
        calls = [*drawn, *own]
        got = [_outputs(model[name](*arrays)) for arrays in calls]  # first: it refuses in words
        trial = _Trial(Replay(programs[name], activation), calls, floor)
        figures = [trial.judge(got, output) for output in range(len(function.outputs))]
        worst = max(
            (Comparison(name, len(drawn), len(own), *one) for one in figures), key=_wrongness
        )
        if activation is not None:
            exported = Replay(programs[name])(calls[0])
            moved = max(map(_relative, trial.wanted[0], exported))
            worst = replace(worst, trained=moved)
        comparisons.append(worst)
    return Report(comparisons)


class _Trial:
    """Inputs, what PyTorch makes of them, and how far noise moves that."""

    def __init__(self, program: Replay, inputs: Sequence[list[NDArray]], floor: float) -> None:
        self._program = program
        self._inputs = inputs
        self._floor = floor
        self.wanted = [program(arrays) for arrays in inputs]  # by call, then by output

    def judge(
        self, got: Sequence[Outputs], output: int
    ) -> tuple[float, float, float, float, float]:
        """The figures of a `Comparison` for one output, from ``largest`` to ``least_bound``."""
        errors = [_error(y[output], z[output]) for y, z in zip(got, self.wanted, strict=True)]
        largest = max(absolute for absolute, _ in errors)
        worst, least = (pick(relative for _, relative in errors) for pick in (max, min))
        bound, least_bound = self._floor, self._floor
        if worst > self._floor:  # else there is nothing that noise would have to explain
            bound = max(bound, MARGIN * max(one[output] for one in self._loud))
        if worst > bound:
            bound = max(bound, MARGIN * max(one[output] for one in self._louder))
        if least > self._floor:
            least_bound = max(least_bound, MARGIN * min(one[output] for one in self._quiet))
        return largest, worst, bound, least, least_bound

    @cached_property
    def _loud(self) -> list[list[float]]:
        return self._noise(LOUD, _LOUD_RUNS)

    @cached_property
    def _louder(self) -> list[list[float]]:
        return self._noise(LOUD, _LAST_RUNS)

    @cached_property
    def _quiet(self) -> list[list[float]]:
        return self._noise(QUIET, _QUIET_RUNS)

    def _noise(self, bits: float, runs: int) -> list[list[float]]:
        """How far each output moves at most in some runs, by call: relative L2."""
        found = []
        for arrays, wanted in zip(self._inputs, self.wanted, strict=True):
            rows = [
                list(map(_relative, self._program(arrays, bits, seed), wanted))
                for seed in range(-(-runs // len(self._inputs)))
            ]
            found.append([max(column) for column in zip(*rows, strict=True)])
        return found


def _wrongness(one: Comparison) -> tuple[int, float]:
    order = ("passed", "undecided", "failed")
    return order.index(one.verdict), one.relative - one.bound


def _outputs(result: Any) -> Outputs:
    return result if isinstance(result, tuple) else (result,)


def _arithmetic(plan: Plan, programs: Mapping[str, ExportedProgram]) -> tuple[str | None, float]:
    """The activation ``build`` was told, None for as exported; and the error always allowed.

    That is larger where the artefact rounds what PyTorch cannot be made to round: in a kernel that
    is approximate, or before a look-up spelled in plain PyTorch.
    """
    compiled = Counter(one.activation for one in plan.layers if one.kind != "embedding")
    for activation in (None, *ACTIVATIONS):
        replayed = sum((activations(one, activation) for one in programs.values()), Counter())
        if replayed <= compiled:
            break
    else:
        activation, replayed = None, compiled
    approximate = any(
        one.approximate for one in FAMILIES if one.name in {x.kernel for x in plan.layers}
    )
    rounds = approximate or set(compiled - replayed) - {"fp32"}
    return activation, BOUND_OTHER if rounds else FLOOR


def _relative(got: NDArray, wanted: NDArray) -> float:
    return _error(got, wanted)[1]


def _error(got: NDArray, wanted: NDArray) -> tuple[float, float]:
    """Greatest absolute difference and relative L2 error; a NaN on one side only is infinite."""
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    if got.shape != wanted.shape or (np.isnan(got) != np.isnan(wanted)).any():
        return np.inf, np.inf
    both = np.isfinite(wanted) & np.isfinite(got)
    if (got[~both & ~np.isnan(got)] != wanted[~both & ~np.isnan(wanted)]).any():
        return np.inf, np.inf
    difference, norm = (got - wanted)[both], np.linalg.norm(wanted[both])
    if not difference.size:
        return 0.0, 0.0
    size = np.linalg.norm(difference)
    relative = size / norm if norm else (np.inf if size else 0.0)
    return float(np.abs(difference).max()), float(relative)
