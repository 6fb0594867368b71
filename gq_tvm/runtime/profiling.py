"""How long a model's functions and layers take, side by side with other artefacts.

Every figure comes from many single runs of compiled code, timed by TVM's evaluator inside the
process (or on the board), the artefacts taking turns. Weights are warm in the caches unless a
model is larger than they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.runtime.columns import columns
from gq_tvm.runtime.function import FAILURES, first_line
from gq_tvm.runtime.manifest import Layer
from gq_tvm.runtime.model import Model
from gq_tvm.runtime.sizes import evaluate

ROUNDS = 5
RUNS = 60  # a round
FRAMES = 4  # of a size known only at run time


@dataclass(frozen=True)
class Timing:
    """Microseconds of a function or a layer.

    Attributes:
        name: Of the function or layer.
        kind: ``"function"``, or the layer's kind.
        bytes: Bytes of the weights it reads.
        median: Half of all runs were faster.
        p90: Nine of ten were.
        p99: Ninety-nine of a hundred were.
    """

    name: str
    kind: str
    bytes: int
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
        """A row for each function and layer; ratios are first artefact / other."""
        (label, own), *others = self.timings.items()
        heads = [f"{label}: bytes", "median us", "P90", "P99"]
        for other, _ in others:
            heads += [f"{other}: bytes", "median us", "ratio"]
        rows = [["", *heads]]
        found = [{(t.kind, t.name): t for t in timings} for _, timings in others]
        for one in own:
            microseconds = (one.median, one.p90, one.p99)
            row = [one.name, f"{one.bytes:,}", *(f"{value:.1f}" for value in microseconds)]
            for timings in found:
                row += _beside(one, timings.get((one.kind, one.name)))
            rows.append(row)
        return columns(rows, right=range(1, len(rows[0])))


def compare(models: Mapping[str, Model], rounds: int = ROUNDS, frames: int = FRAMES) -> Profile:
    """Time the functions and layers of models, in turns.

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
    timers = {label: _timers(model, frames) for label, model in models.items()}
    seconds: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds):
        labels = list(timers) if turn % 2 == 0 else list(reversed(timers))
        for i in range(max(len(rows) for rows in timers.values())):
            for label in labels:  # the same row of each: neighbours in time
                if i < len(timers[label]):
                    seconds.setdefault((label, i), []).extend(timers[label][i][1](RUNS))
    return Profile(
        {
            label: [_timing(about, seconds[label, i]) for i, (about, _) in enumerate(rows)]
            for label, rows in timers.items()
        }
    )


def _timing(about: tuple[str, str, int], seconds: Sequence[float]) -> Timing:
    median, p90, p99 = 1e6 * np.percentile(seconds, [50, 90, 99])
    return Timing(*about, float(median), float(p90), float(p99))


def _timers(model: Model, frames: int) -> list[tuple[tuple[str, str, int], Any]]:
    """What to time: ((name, kind, bytes), run(count) -> seconds)."""
    rng = np.random.default_rng(0)
    found = []
    sizes = {}
    for name in model.functions:
        function = model[name]
        reads = model.manifest.functions[name].parameters
        for size, (low, high) in function.bounds.items():
            sizes[size] = min(max(frames, low or 1), high or frames)
        inputs = [
            _random(rng, tensor.dtype, [evaluate(s, sizes, frames) for s in tensor.shape])
            for tensor in function.inputs
        ]
        read = sum(model.manifest.parameter_bytes[p] for p in reads)
        found.append(((name, "function", read), function.timer(inputs)))
    for name, weights in _by_kernel(model.layers if model.kernels.reachable else []).items():
        call = weights[0].call
        arguments = [
            argument
            if isinstance(argument, str)
            else _random(rng, argument[0], [evaluate(s, sizes, frames) for s in argument[1:]])
            for argument in call["arguments"]
        ]
        outputs = [
            np.zeros([evaluate(s, sizes, frames) for s in output[1:]], output[0])
            for output in call["outputs"]
        ]
        timer = model.kernels.timer(call["symbol"], [*arguments, *outputs])
        found.append(((name, weights[0].kind, sum(one.bytes for one in weights)), timer))
    return found


def _by_kernel(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """The weights by the layers whose one kernel reads them: an LSTM's reads two."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.call["layer"], []).append(layer)
    return found


def _random(rng: np.random.Generator, dtype: str, shape: list[int]) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.zeros(shape, dtype)


def _beside(one: Timing, other: Timing | None) -> list[str]:
    if other is None:
        return ["-", "-", "-"]
    return [f"{other.bytes:,}", f"{other.median:.1f}", f"{one.median / other.median:.2f}"]
