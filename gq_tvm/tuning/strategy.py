"""What to try next.

A family's space is a list of schedules, a few dozen at most today, so there is no need to evolve
them: those near the best, and a sample of the rest, are ranked by the cost model; the first are
tried, and some at random. Where there are more trials than schedules it is only their order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from gq_tvm.schedules import Schedule
from gq_tvm.tuning.candidate import candidate, meaning
from gq_tvm.tuning.log import Trial
from gq_tvm.tuning.task import Task, fingerprint

_AT_RANDOM = 0.2  # of a batch
_SAMPLE = 64  # candidates at random to rank for a batch
_BEST = 4  # whose neighbours are ranked too


@derived_object
class Ranked(ms.search_strategy.PySearchStrategy):
    """MetaSchedule's search strategy of a task."""

    def __init__(self, task: Task, known: Sequence[Trial], stopped: Callable[[], bool]) -> None:
        super().__init__()
        self.task = task
        self.stopped = stopped
        self.costs = {one.schedule: inf if one.cost is None else one.cost for one in known}
        self.untried = [one for one in task.space if one not in self.costs]
        self.kernels = {fingerprint(task, one) for one in self.costs}
        self.random = random.Random(f"{task.key} {len(known)}")

    def _initialize_with_tune_context(self, context: Any) -> None:
        self.context = context

    def pre_tuning(
        self, max_trials: int, batch: int, design_spaces: Any, database: Any, model: Any
    ) -> None:
        """Begin: at most `max_trials`, `batch` at a time, ranked by `model`."""
        self.left, self.batch = max_trials, batch
        self.base, self.model = design_spaces[0], model

    def post_tuning(self) -> None:
        """End."""

    def generate_measure_candidates(self) -> list[Any] | None:
        """The next batch; None at the end."""
        count = 0 if self.stopped() else min(self.batch, self.left)
        taken = self._take(count) if count else []
        self.left -= len(taken)
        return [candidate(self.base, one) for one in taken] or None

    def notify_runner_results(self, candidates: Any, results: Any) -> None:
        """Remember what was fast; the cost model is told by MetaSchedule."""
        for one, result in zip(candidates, results, strict=True):
            seconds = result.run_secs
            self.costs[meaning(one.sch)[1]] = float(seconds[0]) if seconds else inf

    def clone(self) -> Any:
        """A strategy that begins anew."""
        return Ranked(self.task, [], self.stopped)

    def _take(self, count: int) -> list[Schedule]:
        """Remove the next `count` from the untried."""
        pool: list[Schedule] = []
        while self.untried and not pool:
            pool = self._unlike(self._interesting())
        if not pool:
            return []
        scores = self.model.predict(self.context, [candidate(self.base, one) for one in pool])
        order = sorted(zip(pool, scores, strict=True), key=lambda pair: -pair[1])
        ranked = [one for one, _ in order]
        best = ranked[: count - round(_AT_RANDOM * count)]
        others = ranked[len(best) :]
        taken = [*best, *self.random.sample(others, min(len(others), count - len(best)))]
        self.kernels |= {fingerprint(self.task, one) for one in taken}
        self.untried = [one for one in self.untried if one not in taken]
        return taken

    def _interesting(self) -> list[Schedule]:
        """The untried that are worth ranking: those near the best, a sample."""
        best = sorted(self.costs, key=lambda one: self.costs[one])[:_BEST]
        near = [one for one in self.untried if any(_apart(one, other) == 1 for other in best)]
        sample = self.random.sample(self.untried, min(len(self.untried), _SAMPLE))
        return list(dict.fromkeys([*near, *sample]))

    def _unlike(self, pool: list[Schedule]) -> list[Schedule]:
        """One schedule for each kernel that was not tried; the others of the pool are given up."""
        kernels = {fingerprint(self.task, one): one for one in reversed(pool)}
        kept = [one for kernel, one in kernels.items() if kernel not in self.kernels]
        given_up = set(pool) - set(kept)
        self.untried = [one for one in self.untried if one not in given_up]
        return kept


def _apart(one: Schedule, other: Schedule) -> int:
    """How many knobs differ."""
    return sum(one[name] != other[name] for name in one)
