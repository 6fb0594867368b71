"""Timing candidates against each other: in one process, taking turns.

Everything that makes a machine slower for a while (another process, a lower clock) then hits all
alike, and every second round goes through them backwards, so that none always follows the same
neighbour. *Hot* is a call among calls of the same candidate: its minimum is what the code costs
where nothing disturbs it. *Cold* is a single call after every cache was filled with other data;
its median stands for a device whose weights do not fit its cache.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Run = Callable[[], Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Turns of every candidate.
        chunks: Hot figures a turn.
        chunk_us: Duration of the calls behind one hot figure; a single call may take longer.
        warm_us: Calls before the first of them.
        cold: Cold figures a turn.
        settle_us: Sleep before a turn, in which worker threads of the last one stop spinning.
    """

    rounds: int = 6
    chunks: int = 3
    chunk_us: float = 700
    warm_us: float = 500
    cold: int = 3
    settle_us: float = 1000


@dataclass(frozen=True)
class Timing:
    """Microseconds a call."""

    hot_min: float
    hot_median: float
    cold_min: float
    cold_median: float


class Harness:
    """Measures candidates; the clock, the flush and the sleep can be replaced by fakes.

    Args:
        flush: Fills every cache with other data.
        clock: Nanoseconds.
        sleep: Sleeps for so many seconds.
    """

    def __init__(
        self,
        flush: Callable[[], object],
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._flush = flush
        self._clock = clock
        self._sleep = sleep

    def measure(self, runs: Mapping[str, Run], plan: Plan) -> dict[str, Timing]:
        """Time each of ``runs``; every one has been called before."""
        calls = {name: self._calibrate(run, plan.chunk_us) for name, run in runs.items()}
        hot: dict[str, list[float]] = {name: [] for name in runs}
        cold: dict[str, list[float]] = {name: [] for name in runs}
        with _no_garbage_collection():
            for turn in range(plan.rounds):
                for name in list(runs) if turn % 2 == 0 else reversed(list(runs)):
                    self._sleep(plan.settle_us * 1e-6)
                    self._warm(runs[name], plan.warm_us)
                    for _ in range(plan.chunks):
                        hot[name].append(self._time(runs[name], calls[name]))
                    for _ in range(plan.cold):
                        self._flush()
                        cold[name].append(self._time(runs[name], 1))
        return {name: _timing(hot[name], cold[name]) for name in runs}

    def _calibrate(self, run: Run, chunk_us: float) -> int:
        """How many calls take about ``chunk_us``."""
        run()
        calls = 1
        while (each := self._time(run, calls)) * calls < chunk_us / 3 and calls < 100_000:
            calls *= 2
        return max(1, round(chunk_us / max(each, 1e-3)))

    def _warm(self, run: Run, warm_us: float) -> None:
        start = self._clock()
        while self._clock() - start < warm_us * 1000:
            run()

    def _time(self, run: Run, calls: int) -> float:
        """Microseconds a call."""
        start = self._clock()
        for _ in range(calls):
            run()
        return (self._clock() - start) / calls / 1000


def _timing(hot: list[float], cold: list[float]) -> Timing:
    return Timing(min(hot), statistics.median(hot), min(cold), statistics.median(cold))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
