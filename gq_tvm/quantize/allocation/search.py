"""Bits for each weight by a user's metric of the whole model [C].

That fewer bytes along the allocations of least summed loss give no better metric is taken for
granted; so bisection finds the smallest of them that is good enough, and a greedy search goes on.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from gq_tvm import interrupts
from gq_tvm.errors import Error
from gq_tvm.quantize.allocation.progress import minutes
from gq_tvm.quantize.allocation.sensitivity import FLOAT
from gq_tvm.quantize.compress import compress

if TYPE_CHECKING:
    from gq_tvm.quantize.allocation.allocate import Allocation, Units

_ALONG_THE_FRONT = 32


class Search:
    """A search for the fewest bytes.

    Args:
        units: what gets bits.
        metric: see ``allocate``.
        model: in float.
        options: of ``compress``.
        higher_is_better: see ``allocate``.
        say: is told what was measured.
    """

    def __init__(
        self,
        units: Units,
        metric: Callable[[nn.Module], float],
        model: nn.Module,
        options: Mapping[str, Any],
        higher_is_better: bool,
        say: Callable[[str], object],
    ) -> None:
        self._units, self._metric, self._model = units, metric, model
        self._options, self._higher, self._say = options, higher_is_better, say
        self._stopped = False
        self._left = 0
        self._begun = self._measured = 0.0

    def run(self, tolerance: float, trials: int) -> Allocation:
        """The smallest allocation found whose metric is within ``tolerance`` of the float one's."""
        wanted = self._number(self._metric(self._model))
        self._bound = wanted - tolerance if self._higher else wanted + tolerance
        self._say(f"allocate: the metric of the float model is {wanted:g}")
        self._left, self._begun = trials, time.monotonic()
        with interrupts.noted(self._stop):
            best = self._bisected(self._units.front(_ALONG_THE_FRONT), wanted)
            best = self._reduced(best)
        best.float_metric = wanted
        return best

    def _stop(self) -> None:
        self._stopped = True
        self._say("allocate: stopping after this measurement; Ctrl-C once more ends at once")

    def _bisected(self, front: list[Allocation], wanted: float) -> Allocation:
        low, high = 0, len(front) - 1  # the last, all in float, is good enough
        front[high].metric = wanted
        while low < high and not self._over():
            middle = (low + high) // 2
            if self._good(front[middle]):
                high = middle
            else:
                low = middle + 1
        return front[high]

    def _reduced(self, best: Allocation) -> Allocation:
        """Fewer bits for one unit after another, where most is saved for what is lost."""
        refused: set[tuple[tuple[str, int], ...]] = set()
        while not self._over():
            steps = [one for one in self._smaller(best) if one[0] not in refused]
            if not steps:
                break
            key, step = max(steps, key=lambda one: self._worth(best, one[1]))
            if self._good(step):
                best = step
            else:
                refused.add(key)
        return best

    def _smaller(
        self, best: Allocation
    ) -> Iterator[tuple[tuple[tuple[str, int], ...], Allocation]]:
        for options in self._units.options:
            size = sum(
                self._units.sensitivity.weights[name].bytes[best[name]] for name in options[0].bits
            )
            smaller = [one for one in options if one.size < size]
            if smaller:
                bits = smaller[-1].bits
                yield tuple(bits.items()), self._units.allocation({**best, **bits})

    @staticmethod
    def _worth(best: Allocation, step: Allocation) -> float:
        return (best.bytes - step.bytes) / max(step.lost - best.lost, 1e-30)

    def _over(self) -> bool:
        return self._stopped or self._left <= 0

    def _good(self, allocation: Allocation) -> bool:
        self._left -= 1
        self._measured += 1
        allocation.metric = self._number(self._metric(self._compressed(allocation)))
        good = (
            allocation.metric >= self._bound if self._higher else allocation.metric <= self._bound
        )
        each = (time.monotonic() - self._begun) / self._measured
        self._say(
            f"{allocation.bytes} bytes: metric {allocation.metric:g}, "
            f"{'good enough' if good else 'not enough'}; "
            f"{minutes(each * self._left)} left at most"
        )
        return good

    def _compressed(self, allocation: Allocation) -> nn.Module:
        if set(allocation.values()) == {FLOAT}:
            return self._model
        with warnings.catch_warnings():  # what is lost the metric says
            warnings.simplefilter("ignore", UserWarning)
            return compress(self._model, None, allocation, **self._options)

    @staticmethod
    def _number(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise Error(f"allocate: the metric must give a number, got {value!r}.")
        return number
