"""How far tuning is: one line on a terminal, kept up to date, and a line for each winner."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from gq_tvm.schedules.choosing.database import cost
from gq_tvm.tuning.log import Trial
from gq_tvm.tuning.task import Task

if TYPE_CHECKING:
    from gq_tvm.tuning.verdict import Tuned

_SECONDS = 10.0  # between lines where there is no terminal


class Progress:
    """Reports to a stream.

    Attributes:
        stopped: Whether tuning was interrupted.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._told = self._start = time.monotonic()
        self.stopped = False
        self._budgets: list[int] = []
        self._done = self._fresh = self._number = 0
        self._task: Task | None = None
        self._trials: list[Trial] = []

    def begin(self, budgets: Sequence[int]) -> None:
        """Tuning begins, with so many trials for each task at most."""
        self._budgets = list(budgets)
        self._start = time.monotonic()

    def task(self, number: int, task: Task, known: Sequence[Trial]) -> None:
        """Task `number` (from 1) begins or goes on; `known` trials were made before."""
        self._number, self._task, self._trials = number, task, list(known)

    def trial(self, trial: Trial) -> None:
        """A trial is done."""
        self._trials.append(trial)
        self._fresh += 1
        now = time.monotonic()
        if self._live or now - self._told > _SECONDS:
            self._told = now
            self._show(self.line())

    def line(self) -> str:
        """What is being tuned, how far that is, how fast and for how long."""
        budget = self._budgets[self._number - 1]
        left = max(budget - len(self._trials), 0) + sum(self._budgets[self._number :])
        rate = self._fresh / max(time.monotonic() - self._start, 1e-3)
        parts = [f"{self._task}: {len(self._trials)}/{budget} trials", *self._best()]
        rejected = sum(trial.cost is None for trial in self._trials)
        if rejected:
            parts.append(f"{rejected} rejected")
        if len(self._budgets) > 1:
            parts.append(f"task {self._number}/{len(self._budgets)}")
        parts.append(f"{rate:.1f} trials/s")
        if rate:
            parts.append(f"{_clock(left / rate)} left")
        return ", ".join(parts)

    def _best(self) -> list[str]:
        costs = {t.schedule: t.cost for t in self._trials if t.cost is not None}
        if not costs or self._task is None:
            return []
        default = costs.get(self._task.default)
        beside = f" (untuned {default:.1f})" if default else ""
        return [f"best {min(costs.values()):.1f} us{beside}"]

    def winner(self, task: Task, tuned: Tuned) -> None:
        """A task is done."""
        entry = tuned.entry
        if entry.default_hot is None:
            beside = "what is taken untuned fails"
        elif entry.schedule == str(task.default):
            beside = "as untuned"
        else:
            ratio = entry.cost / cost(entry.default_hot, entry.default_cold)
            beside = f"{ratio:.2f} of untuned"
        cold = "" if entry.cold is None else f" ({entry.cold:.1f} with cold caches)"
        text = f"{task}: {entry.hot:.1f} us{cold}, {entry.schedule}, {beside}"
        noun = "trial" if tuned.trials == 1 else "trials"
        rejected = f", {tuned.rejected} rejected" if tuned.rejected else ""
        text += f" ({tuned.trials} {noun}{rejected})"
        self.say(text)

    def end(self, stopped: bool) -> None:
        """Tuning is over."""
        self.stopped = stopped
        took = _clock(time.monotonic() - self._start)
        if stopped:
            self.say(f"stopped after {self._fresh} trials in {took}; the same command goes on")
        else:
            self.say(f"{self._fresh} trials in {took}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._stream.write(("\r\x1b[K" if self._live else "") + text + "\n")
        self._stream.flush()

    def _show(self, text: str) -> None:
        if self._live:
            self._stream.write("\r\x1b[K" + text)
            self._stream.flush()
        else:
            self.say(text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
