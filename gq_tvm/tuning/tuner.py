"""Search for the fastest schedules of products: here, on a board, or by a model of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

from gq_tvm import interrupts
from gq_tvm.errors import Error
from gq_tvm.schedules import FAMILIES, Product, families_for, family
from gq_tvm.schedules.choosing.chooser import Chooser
from gq_tvm.tuning.log import Log
from gq_tvm.tuning.pool import Pool
from gq_tvm.tuning.progress import Progress
from gq_tvm.tuning.task import Task
from gq_tvm.tuning.verdict import Run, Tuned


def tasks_for(products: Sequence[Product], chooser: Chooser, kernel: str = "auto") -> list[Task]:
    """What to tune for products: each with every exact family that has a choice of schedules.

    Args:
        products: Of the layers; equal ones are tuned once.
        chooser: Of what is taken untuned, and so of the target and the threads of the kernels.
        kernel: One family for all, or ``"auto"``.

    Raises:
        Error: nothing of it can be tuned.
    """
    target, tasks = chooser.target, []
    for product in dict.fromkeys(products):
        able = families_for(target, product)
        if kernel == "auto":
            able = [one for one in able if not one.only_by_name]
        else:
            able = [one for one in FAMILIES if one is family(kernel) and one in able]
        for one in able:
            untuned = chooser.choice(one, product).schedule
            task = Task(target.name, one.name, product, chooser.threads, untuned)
            tasks += [task] if len(task.space) > 1 else []
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

    What is taken untuned is tried first, of all tasks, and gets an entry where a product has none:
    else one that is not reached would take the schedule which suits another. A winner replaces it
    only where it is faster side by side.

    Every trial is logged beside the database; tasks and trials done before are not done again. An
    interrupt (Ctrl-C) ends the search after the trial under way; the winner among the trials made
    is still found. A board that is lost for good ends it at once.

    Args:
        tasks: What to tune, all for one target.
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

        run = Run(database, cpu, log, pool, progress, stopped, tasks)
        if not all(run.decided(task) and len(log.trials(task)) >= trials for task in tasks):
            pool.start()
        progress.begin([min(trials, len(task.space)) for task in tasks])
        run.try_untuned()
        for number, task in enumerate(tasks, 1):
            if stopped():
                break
            known = list(log.trials(task).values())
            progress.task(number, task, known)
            search(task, known, trials - len(known), pool, ranking, run.noting(task), stopped)
            results += run.conclude(task)
    log.close()
    progress.end(stopped=stopped())
    if pool.lost:
        raise Error(
            f"{pool.lost.reason}; what was measured is kept in {log.path}: when it is back, the "
            "same command goes on"
        )
    return results
