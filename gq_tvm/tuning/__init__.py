"""Search for the fastest schedules of products: here, on a board, or by a model of one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event

from gq_tvm import __version__, interrupts, targets
from gq_tvm.errors import Error
from gq_tvm.runtime.devices import DeviceLost
from gq_tvm.schedules import FAMILIES, Product, Schedule, families_for, family
from gq_tvm.schedules.database import Entry, add, cost
from gq_tvm.targets import Target
from gq_tvm.tuning.bench import Measurement
from gq_tvm.tuning.log import Log, Trial
from gq_tvm.tuning.pool import Pool
from gq_tvm.tuning.progress import Progress
from gq_tvm.tuning.task import Task

__all__ = ["Progress", "Task", "Tuned", "tasks_for", "tune"]

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


def tasks_for(
    products: Sequence[Product], target: Target, kernel: str = "auto", threads: int = 1
) -> list[Task]:
    """What to tune for products: each with every exact family that has a choice of schedules.

    Args:
        products: Of the layers; equal ones are tuned once.
        target: The device.
        kernel: One family for all, or ``"auto"``.
        threads: Threads the kernels will run on.

    Raises:
        Error: nothing of it can be tuned.
    """
    tasks = []
    for product in dict.fromkeys(products):
        able = families_for(target, product)
        if kernel == "auto":
            able = [one for one in able if not (one.baseline or one.approximate)]
        else:
            able = [one for one in FAMILIES if one is family(kernel) and one in able]
        made = (Task(target.name, one.name, product, threads) for one in able)
        tasks += [task for task in made if len(task.space) > 1]
    if not tasks:
        what = "kernel" if kernel == "auto" else f"kernel {kernel}"
        raise Error(f"there is nothing to tune: no {what} on {target.name} has several schedules")
    return tasks


def tune(
    tasks: Sequence[Task],
    trials: int,
    database: Path,
    cpu: str,
    pool: Pool,
    progress: Progress,
    model: str = "",
) -> list[Tuned]:
    """Tune tasks one after the other, and put each winner into the database at once.

    Every trial is logged beside the database; tasks and trials done before are not done again. An
    interrupt (Ctrl-C) ends the search after the trial under way; the winner among the trials made
    is still found. A board that is lost for good ends it at once.

    Args:
        tasks: What to tune.
        trials: Schedules to try for each, those tried before included.
        database: File of the results, made if need be; the log has its name and ``.log.jsonl``.
        cpu: What the kernels run on, in words.
        pool: Runs them.
        progress: Told of everything.
        model: What modelled times depend on besides; trials made with another count no more.

    Raises:
        Error: a file cannot be written, the workers cannot start, or the board is lost.
    """
    from gq_tvm.tuning.search import cost_model, search

    log = Log(database.with_suffix(".log.jsonl"), cpu, model)
    ranking = cost_model()
    results = []
    interrupted = Event()
    with interrupts.noted(interrupted.set):

        def stopped() -> bool:
            return interrupted.is_set() or pool.lost is not None

        if not all(log.decided(task) and len(log.trials(task)) >= trials for task in tasks):
            pool.start()
        progress.begin([min(trials, len(task.space)) for task in tasks])
        for task in tasks:
            if stopped():
                break
            known = list(log.trials(task).values())
            progress.task(task, known)

            def note(trial: Trial, task: Task = task) -> None:
                log.add(task, trial)
                progress.trial(trial)

            search(task, known, trials - len(known), pool, ranking, note, stopped)
            with suppress(DeviceLost):  # which `pool.lost` tells
                results += _conclude(task, log, database, cpu, pool, progress)
            if pool.lost and pool.lost.schedule:
                log.lose(task, pool.lost.schedule, pool.lost.reason)
    log.close()
    progress.end(stopped=stopped())
    if pool.lost:
        raise Error(
            f"{pool.lost.reason}; what was measured is kept in {log.path}: when it is back, the "
            "same command goes on"
        )
    return results


def _conclude(
    task: Task, log: Log, database: Path, cpu: str, pool: Pool, progress: Progress
) -> list[Tuned]:
    """Find the winner of a task and write it down, unless that was done."""
    made = log.trials(task).values()
    good = [trial for trial in made if trial.cost is not None]
    rejected = len(made) - len(good)
    if not good:
        progress.say(f"{task}: nothing worked" if made else f"{task}: nothing was tried")
        return []
    if log.decided(task):
        progress.say(f"{task}: tuned before ({len(made)} trials)")
        return []
    entry = _winner(task, good, pool, cpu)
    add(database, targets.get(task.target), [entry])
    log.decide(task)
    tuned = Tuned(entry, len(made), rejected)
    progress.winner(task, tuned)
    return [tuned]


def _winner(task: Task, trials: list[Trial], pool: Pool, cpu: str) -> Entry:
    """Time the best trials and the default in turns; the default stays unless it is beaten."""
    ranked = sorted(trials, key=lambda trial: trial.cost or 0.0)
    finalists = [trial.schedule for trial in ranked if trial.schedule != task.default][:_FINALISTS]
    finalists.insert(0, task.default)
    rounds = pool.duel(task, finalists, _ROUNDS)
    best, least = 0, 1.0
    for i in range(1, len(finalists)):
        ratios = sorted(_ratio(one[i], one[0]) for one in rounds)
        gain, hot = median(ratios), median(one[i].hot / one[0].hot for one in rounds)
        if gain < min(_GAIN, least) and ratios[-2] < 1 and hot < _NOT_SLOWER:
            best, least = i, gain
    return _entry(task, finalists[best], rounds, best, cpu)


def _ratio(one: Measurement, other: Measurement) -> float:
    return cost(one.hot, one.cold) / cost(other.hot, other.cold)


def _entry(
    task: Task, schedule: Schedule, rounds: list[tuple[Measurement, ...]], best: int, cpu: str
) -> Entry:
    hot, cold = _times([one[best] for one in rounds])
    default_hot, default_cold = _times([one[0] for one in rounds])
    return Entry(
        family=task.family,
        n=task.product.n,
        k=task.product.k,
        bits=task.product.bits,
        activation=task.product.activation,
        rows=task.product.rows,
        threads=task.threads,
        schedule=str(schedule),
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
