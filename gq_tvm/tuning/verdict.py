"""What a tuning run does with a task: try what is taken untuned, compare side by side, decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gq_tvm import __version__, targets
from gq_tvm.errors import Error
from gq_tvm.runtime.devices.device import DeviceLost
from gq_tvm.schedules import Schedule
from gq_tvm.schedules.choosing.database import Entry, add, cost, read
from gq_tvm.tuning.bench import Measurement
from gq_tvm.tuning.log import Log, Trial
from gq_tvm.tuning.measure import attempt
from gq_tvm.tuning.pool import Pool
from gq_tvm.tuning.progress import Progress
from gq_tvm.tuning.task import Task

_FINALISTS = 3
_ROUNDS = 5
# A schedule replaces the one taken untuned when it is faster side by side: by this much over hot
# and cold calls together, in all rounds but one, and not slower with the weights in the cache.
_GAIN = 0.98
_NOT_SLOWER = 1.005


@dataclass(frozen=True)
class Tuned:
    """What came of a task.

    Attributes:
        entry: The winner, as the database has it.
        trials: Schedules tried, now and before.
        rejected: Those with wrong results, crashes and the like.
    """

    entry: Entry
    trials: int
    rejected: int


@dataclass
class Run:
    """What a call of `tune` does for each task, and what it does that with."""

    database: Path
    cpu: str
    log: Log
    pool: Pool
    progress: Progress
    stopped: Callable[[], bool]
    tasks: Sequence[Task]

    def __post_init__(self) -> None:
        # The log alone does not tell: the database it belongs to may have been removed.
        self._in_database = {task for task in self.tasks if self._known(task)}

    def decided(self, task: Task) -> bool:
        """Whether the winner of all trials was in the database when the run began."""
        return self.log.decided(task) and task in self._in_database

    def noting(self, task: Task) -> Callable[[Trial], None]:
        """What takes the trials of a task as they are made."""

        def note(trial: Trial) -> None:
            self.log.add(task, trial)
            self.progress.trial(trial)

        return note

    def try_untuned(self) -> None:
        """Try the schedules taken untuned; those of new products go into the database together."""
        entries = []
        for number, task in enumerate(self.tasks, 1):
            if self.stopped():
                return
            made = self.log.trials(task)
            self.progress.task(number, task, list(made.values()))
            if task.default not in made:
                attempt(self.pool, task, task.default, self.noting(task))
                self._lose(task)
            trial = self.log.trials(task).get(task.default)
            if trial is not None and trial.measurement and task not in self._in_database:
                entries.append(_entry(task, [task.default], [(trial.measurement,)], 0, self.cpu))
        if entries and not self.stopped():
            add(self.database, targets.get(self.tasks[0].target), entries)

    def conclude(self, task: Task) -> list[Tuned]:
        """Find the winner of a task and write it down, unless that was done."""
        made = self.log.trials(task)
        good = [trial for trial in made.values() if trial.cost is not None]
        rejected = len(made) - len(good)
        if not good:
            self.progress.say(f"{task}: nothing worked" if made else f"{task}: nothing was tried")
            return []
        if self.decided(task):
            self.progress.say(f"{task}: tuned before ({len(made)} trials)")
            return []
        try:
            entry = _winner(task, made, self.pool, self.cpu)
        except DeviceLost:  # which `pool.lost` tells
            return []
        except Error as failure:
            self.progress.say(f"{task}: {failure}; what was taken before stays")
            return []
        finally:
            self._lose(task)
        add(self.database, targets.get(task.target), [entry])
        self.log.decide(task)
        tuned = Tuned(entry, len(made), rejected)
        self.progress.winner(task, tuned)
        return [tuned]

    def _known(self, task: Task) -> bool:
        """Whether the database has an entry of the very product."""
        key, legal = (task.family, task.product, task.threads), set(map(str, task.space))
        entries = read(self.database, targets.get(task.target))
        return any(one.key == key and one.schedule in legal for one in entries)

    def _lose(self, task: Task) -> None:
        """Note what the board ran when it was lost, if it was."""
        if self.pool.lost and self.pool.lost.schedule:
            self.log.lose(task, self.pool.lost.schedule, self.pool.lost.reason)


def _winner(task: Task, made: dict[Schedule, Trial], pool: Pool, cpu: str) -> Entry:
    """Time the best trials and the default in turns; the default stays unless it is beaten.

    A default that fails, where it worked for whoever tuned it, is no rival.
    """
    good = [trial for trial in made.values() if trial.cost is not None]
    ranked = sorted(good, key=lambda trial: trial.cost or 0.0)
    finalists = [trial.schedule for trial in ranked if trial.schedule != task.default][:_FINALISTS]
    if task.default not in made or made[task.default].cost is not None:
        finalists.insert(0, task.default)
    rounds = pool.duel(task, finalists, _ROUNDS)
    best, least = 0, 1.0
    for i in range(1, len(finalists)):
        ratios = sorted(_ratio(one[i], one[0]) for one in rounds)
        gain, hot = median(ratios), median(one[i].hot / one[0].hot for one in rounds)
        if gain < min(_GAIN, least) and ratios[-2] < 1 and hot < _NOT_SLOWER:
            best, least = i, gain
    return _entry(task, finalists, rounds, best, cpu)


def _ratio(one: Measurement, other: Measurement) -> float:
    return cost(one.hot, one.cold) / cost(other.hot, other.cold)


def _entry(
    task: Task,
    schedules: Sequence[Schedule],
    rounds: Sequence[tuple[Measurement, ...]],
    best: int,
    cpu: str,
) -> Entry:
    """The entry of the `best` of some schedules; the first is what is taken untuned, if any is."""
    hot, cold = _times([one[best] for one in rounds])
    default_hot, default_cold = None, None
    if schedules[0] == task.default:
        default_hot, default_cold = _times([one[0] for one in rounds])
    product = vars(task.product).copy()
    del product["outliers"]  # they change no schedule
    return Entry(
        **product,
        family=task.family,
        threads=task.threads,
        schedule=str(schedules[best]),
        hot=hot,
        cold=cold,
        default_hot=default_hot,
        default_cold=default_cold,
        cpu=cpu,
        version=__version__,
    )


def _times(measured: list[Measurement]) -> tuple[float, float | None]:
    cold = [one.cold for one in measured if one.cold is not None]
    hot = median(one.hot for one in measured)
    return round(hot, 2), round(median(cold), 2) if cold else None
