"""How long a model's functions and all they call take, side by side with other artefacts.

Every figure comes from many single runs of compiled code, timed by TVM's evaluator inside the
process (or on the board), the artefacts taking turns. Weights are warm in the caches unless a
model is larger than they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gq_tvm.columns import columns
from gq_tvm.errors import Error
from gq_tvm.runtime.function import FAILURES, Timer, first_line
from gq_tvm.runtime.manifest import KernelCall
from gq_tvm.runtime.model import Model
from gq_tvm.runtime.sizes import evaluate

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
        Error: a function has a size that depends on others in a way not understood, or a layer is
            not what the manifest says.
    """
    try:
        return _compare(models, rounds, frames)
    except FAILURES as failure:
        raise Error(
            f"the layers cannot be timed ({first_line(failure)}); compile the model again"
        ) from failure


def _compare(models: Mapping[str, Model], rounds: int, frames: int) -> Profile:
    lines = {label: _lines(model, frames) for label, model in models.items()}
    seconds: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds):
        labels = list(lines) if turn % 2 == 0 else list(reversed(lines))
        for i in range(max(len(rows) for rows in lines.values())):
            for label in labels:  # the same row of each: neighbours in time
                if i < len(lines[label]):
                    seconds.setdefault((label, i), []).extend(lines[label][i].time(RUNS))
    return Profile(
        {
            label: _with_rests([_timing(one, seconds[label, i]) for i, one in enumerate(rows)])
            for label, rows in lines.items()
        }
    )


def _timing(line: _Line, seconds: Sequence[float]) -> Timing:
    median, p90, p99 = (float(1e6 * value) for value in np.percentile(seconds, [50, 90, 99]))
    return Timing(line.name, line.kind, line.function, line.bytes, line.calls, median, p90, p99)


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


@dataclass
class _Line:
    """What has a line of its own, and how to time it: the seconds of each of ``count`` calls."""

    name: str
    kind: str
    function: str
    bytes: int
    calls: int
    time: Timer


def _lines(model: Model, frames: int) -> list[_Line]:
    found = []
    for name in model.functions:
        function, about = model[name], model.manifest.functions[name]
        sizes = {
            size: min(max(frames, low or 1), high or frames)
            for size, (low, high) in function.bounds.items()
        }
        arrays = _Arrays(sizes, frames)
        inputs = [arrays.like(tensor.dtype, *tensor.shape) for tensor in function.inputs]
        read = sum(model.manifest.parameter_bytes[p] for p in about.parameters)
        found.append(_Line(name, "function", name, read, 1, function.timer(inputs)))
        if model.kernels.reachable:
            found += _kernel_lines(model, name, arrays)
    return found


def _kernel_lines(model: Model, function: str, arrays: _Arrays) -> list[_Line]:
    """A line for each codebook layer, and for each float operator by the layer it is of."""
    calls = model.manifest.functions[function].calls
    names = Counter(
        one for call in calls for one in set(_parameters(call.arguments)) for _ in range(call.times)
    )
    groups: dict[tuple[str, str], list[KernelCall]] = {}
    for call in calls:
        layer = _layer(model, call)
        kind, name = ("operator", _operator(call, names)) if layer is None else layer
        groups.setdefault((name, kind), []).append(call)
    sizes = model.manifest.parameter_bytes
    return [
        _Line(
            name,
            kind,
            function,
            sum(sizes[one] for one in {p for call in group for p in _parameters(call.arguments)}),
            sum(call.times for call in group),
            _mean([(call.times, _timer(model, call, arrays)) for call in group]),
        )
        for (name, kind), group in groups.items()
    ]


def _layer(model: Model, call: KernelCall) -> tuple[str, str] | None:
    """Kind and name of the codebook layer a call is, None of a float operator."""
    read = set(_parameters(call.arguments))
    for one in model.layers:
        if one.call["symbol"] == call.symbol and read.issuperset(
            _parameters(one.call["arguments"])
        ):
            return one.kind, one.call["layer"]
    return None


def _operator(call: KernelCall, uses: Mapping[str, int]) -> str:
    """What a float kernel is called: its operators, and the layer only it has parameters of."""
    name = re.sub(r"\d+(?=_|$)", "", call.symbol.removeprefix("fused_"))
    own = [one.rpartition(".")[0] for one in _parameters(call.arguments) if uses[one] == 1]
    named = [one for one in own if one not in ("", "constant")]
    return f"{name} ({named[0]})" if named else name


def _parameters(arguments: Sequence[Any]) -> list[str]:
    return [one for one in arguments if isinstance(one, str)]


def _timer(model: Model, call: KernelCall, arrays: _Arrays) -> Timer:
    arguments = [one if isinstance(one, str) else arrays.made(*one) for one in call.arguments]
    outputs = [arrays.like(*one) for one in call.outputs]
    sizes = [arrays.number(size) for size in call.sizes]
    return model.kernels.timer(call.symbol, [*arguments, *outputs, *sizes])


def _mean(timers: Sequence[tuple[int, Timer]]) -> Timer:
    """The seconds of a call on the average of kernels that are called so many times each."""
    calls = sum(times for times, _ in timers)

    def time(count: int) -> list[float]:
        columns = [[times * one for one in timer(count)] for times, timer in timers]
        return [sum(row) / calls for row in zip(*columns, strict=True)]

    return time


class _Arrays:
    """Arrays to time with: normal floats, zeros of integers.

    Args:
        sizes: Those known only at run time.
        otherwise: For names that are not among them.
    """

    def __init__(self, sizes: Mapping[str, int], otherwise: int) -> None:
        self._rng = np.random.default_rng(0)
        self._sizes = sizes
        self._otherwise = otherwise

    def number(self, size: int | str) -> int:
        """What a size is."""
        return evaluate(size, self._sizes, self._otherwise)

    def made(self, dtype: int | str, *shape: int | str) -> np.ndarray | int:
        """An argument as `KernelCall.arguments` has it: an array, or a size."""
        return self.number(shape[0]) if dtype == "size" else self.like(dtype, *shape)

    def like(self, dtype: int | str, *shape: int | str) -> np.ndarray:
        """An array of a dtype and sizes."""
        numbers = [self.number(size) for size in shape]
        kind = np.dtype(str(dtype))
        if kind.kind == "f":
            return self._rng.standard_normal(numbers).astype(kind)
        return np.zeros(numbers, kind)


def _beside(one: Timing, other: Timing | None) -> list[str]:
    if other is None:
        return ["-", "-", "-"]
    ratio = "-" if one.kind == "rest" else f"{one.median / other.median:.2f}"
    return [f"{other.bytes:,}", f"{other.median:.1f}", ratio]
