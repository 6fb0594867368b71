"""How long a model's functions and all they call take, side by side with other artefacts.

Every figure comes from many single runs of compiled code, timed inside the process (on a board by
TVM's evaluator), the artefacts taking turns; kernels are timed where they stand in their function.
Weights are warm in the caches unless a model is larger than they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gq_tvm.columns import columns
from gq_tvm.plan.plan import Call, Operand, Tensor
from gq_tvm.plan.size import evaluate
from gq_tvm.runtime.model import Model

ROUNDS = 5
RUNS = 60  # a round
FRAMES = 4  # of a size known only at run time


@dataclass(frozen=True)
class Timing:
    """Microseconds of a function, or of one call of a layer or a float operator in it.

    Attributes:
        name: Of the function or layer; of an operator what it does, and whose weights it reads.
        kind: ``"function"``, the layer's kind, ``"operator"``; or ``"rest"``, what a function takes
            beyond the kernels it calls.
        function: The function it is of.
        bytes: Bytes of the weights it reads.
        calls: How often the function calls it.
        median: Half of all runs were faster.
        p90: Nine of ten were.
        p99: Ninety-nine of a hundred were.
    """

    name: str
    kind: str
    function: str
    bytes: int
    calls: int
    median: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Profile:
    """Timings of several artefacts by their labels; the first is the one of interest."""

    timings: dict[str, list[Timing]]

    def to_json(self) -> dict[str, Any]:
        """The timings as JSON."""
        return {label: [asdict(one) for one in rows] for label, rows in self.timings.items()}

    def table(self) -> str:
        """A row for each function and what it calls; ratios are first artefact / other."""
        (label, own), *others = self.timings.items()
        heads = [f"{label}: calls", "bytes", "median us", "P90", "P99", "share"]
        for other, _ in others:
            heads += [f"{other}: bytes", "median us", "ratio"]
        rows = [["", *heads]]
        found = [{(t.function, t.kind, t.name): t for t in timings} for _, timings in others]
        whole = {one.name: one.median for one in own if one.kind == "function"}
        for one in own:
            share = f"{one.calls * one.median / whole[one.function]:.1%}"
            figures = [f"{value:.1f}" for value in (one.median, one.p90, one.p99)]
            row = [one.name, f"{one.calls}", f"{one.bytes:,}", *figures, share]
            if one.kind == "rest":
                row = [one.name, "", "", figures[0], "", "", share]
            for timings in found:
                row += _beside(one, timings.get((one.function, one.kind, one.name)))
            rows.append(row)
        return columns(rows, right=range(1, len(rows[0])))


def compare(models: Mapping[str, Model], rounds: int = ROUNDS, frames: int = FRAMES) -> Profile:
    """Time the functions of models and all kernels they call, in turns.

    Args:
        models: Loaded artefacts by the labels to show.
        rounds: Turns; each has ``RUNS`` runs of everything.
        frames: What to take for a size known only at run time, within its bounds.

    Raises:
        Error: a function fails on random inputs.
    """
    timed = {
        label: [_TimedFunction(model, name, frames) for name in model.functions]
        for label, model in models.items()
    }
    for turn in range(rounds):
        labels = list(timed) if turn % 2 == 0 else list(reversed(timed))
        for i in range(max(map(len, timed.values()))):
            for label in labels:  # the same function of each: neighbours in time
                if i < len(timed[label]):
                    timed[label][i].run(RUNS)
    return Profile(
        {
            label: _with_rests([one for each in functions for one in each.timings()])
            for label, functions in timed.items()
        }
    )


def _with_rests(timings: list[Timing]) -> list[Timing]:
    """Each function, its kernels by the time they take in all, and what it does besides."""
    found = []
    for function in (one for one in timings if one.kind == "function"):
        kernels = [
            one for one in timings if one.function == function.name and one.kind != "function"
        ]
        kernels.sort(key=lambda one: -one.median * one.calls)
        found += [function, *kernels]
        if kernels:
            rest = function.median - sum(one.median * one.calls for one in kernels)
            found.append(Timing("outside kernels", "rest", function.name, 0, 1, rest, rest, rest))
    return found


class _TimedFunction:
    """A function, tied to random inputs, and how long it and its kernels took."""

    def __init__(self, model: Model, name: str, frames: int) -> None:
        function = model[name]
        self._plan = function.about
        sizes = {
            one.name: min(max(frames, one.least or 1), one.most or frames)
            for one in self._plan.sizes.values()
        }
        rng = np.random.default_rng(0)
        inputs = [_drawn(rng, one, sizes) for one in function.inputs]
        self._tied = function.timed(inputs)
        self._whole: list[float] = []  # seconds, by run
        self._kernels: list[np.ndarray] = []  # the same, by run and call

    def run(self, runs: int) -> None:
        """Time some runs of the function, and as many in which each kernel is timed."""
        self._whole += self._tied.time(runs)
        self._kernels.append(self._tied.time_kernels(runs, len(self._plan.calls)))

    def timings(self) -> list[Timing]:
        """The function, its codebook layers, and its float operators by the layer they are of."""
        name, calls = self._plan.name, self._plan.calls
        read = sum(one.bytes for one in self._plan.weights.values())
        found = [_timing(name, "function", name, read, 1, self._whole)]
        groups: dict[tuple[str, str], list[int]] = {}
        uses = Counter(weight for call in calls for weight in self._weights(call))
        for number, call in enumerate(calls):
            if call.layers:
                kind, own = call.layers[0].kind, call.layer
            else:
                kind, own = "operator", _operator(call, self._weights(call), uses)
            groups.setdefault((own, kind), []).append(number)
        seconds = np.concatenate(self._kernels)
        for (own, kind), numbers in groups.items():
            weights = {weight for number in numbers for weight in self._weights(calls[number])}
            read = sum(self._plan.weights[one].bytes for one in weights)
            mean = seconds[:, numbers].mean(axis=1)
            found.append(_timing(own, kind, name, read, len(numbers), mean))
        return found

    def _weights(self, call: Call) -> set[str]:
        """The weights that a call reads."""
        values = self._plan.values
        read = {self._plan.root(o.value) for o in call.arguments if isinstance(o, Operand)}
        return {values[number].name for number in read if values[number].kind == "weight"}


def _timing(
    name: str, kind: str, function: str, size: int, calls: int, seconds: Sequence[float]
) -> Timing:
    median, p90, p99 = (float(1e6 * value) for value in np.percentile(seconds, [50, 90, 99]))
    return Timing(name, kind, function, size, calls, median, p90, p99)


def _operator(call: Call, weights: Iterable[str], uses: Mapping[str, int]) -> str:
    """What a float kernel is called: its operators, and the layer only it has parameters of."""
    name = re.sub(r"\d+(?=_|$)", "", call.kernel.removeprefix("fused_"))
    own = sorted(one.rpartition(".")[0] for one in weights if uses[one] == 1)
    named = [one for one in own if one not in ("", "constant")]
    return f"{name} ({named[0]})" if named else name


def _drawn(rng: np.random.Generator, tensor: Tensor, sizes: Mapping[str, int]) -> np.ndarray:
    """An array to time with: normal floats, zeros of integers."""
    shape = [evaluate(size, sizes) for size in tensor.shape]
    kind = np.dtype(tensor.dtype)
    return rng.standard_normal(shape).astype(kind) if kind.kind == "f" else np.zeros(shape, kind)


def _beside(one: Timing, other: Timing | None) -> list[str]:
    if other is None:
        return ["-", "-", "-"]
    ratio = "-" if one.kind == "rest" else f"{one.median / other.median:.2f}"
    return [f"{other.bytes:,}", f"{other.median:.1f}", ratio]
