"""MetaSchedule's builder and runner, on the worker processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from gq_tvm.errors import Error
from gq_tvm.runtime.devices.device import DeviceLost
from gq_tvm.schedules import Schedule
from gq_tvm.tuning.candidate import meaning
from gq_tvm.tuning.log import Trial
from gq_tvm.tuning.pool import Pool
from gq_tvm.tuning.task import Task

Note = Callable[[Trial], object]


def runner_result(trial: Trial) -> Any:
    """A trial as MetaSchedule's cost model takes it."""
    if trial.cost is None:
        return ms.runner.RunnerResult(None, trial.failure)
    return ms.runner.RunnerResult([1e-6 * trial.cost], None)


def attempt(pool: Pool, task: Task, schedule: Schedule, note: Note) -> None:
    """Try one schedule; nothing is noted where the board is lost."""
    (failure,) = pool.build(task, [schedule])
    trial = Trial(schedule, None, failure) if failure else None
    if failure == "":
        trial = timed(pool, task, schedule)
    if trial is not None:
        note(trial)


def timed(pool: Pool, task: Task, schedule: Schedule) -> Trial | None:
    """The trial of a kernel that is built; None where the board is lost."""
    try:
        return Trial(schedule, pool.time(task, schedule))
    except DeviceLost:
        return None
    except Error as failure:
        return Trial(schedule, None, str(failure))


@derived_object
class Builder(ms.builder.PyBuilder):
    """Builds and checks kernels; those that are wrong fail here."""

    def __init__(self, pool: Pool, note: Note, stopped: Callable[[], bool]) -> None:
        super().__init__()
        self.pool = pool
        self.note = note
        self.stopped = stopped

    def build(self, inputs: list[Any]) -> list[Any]:
        """What became of each; the path of a built one is its task and schedule."""
        if self.stopped():
            return [ms.builder.BuilderResult(None, "stopped") for _ in inputs]
        meanings = [meaning(s_tir.Schedule(one.mod)) for one in inputs]
        task = meanings[0][0]
        failures = self.pool.build(task, [schedule for _, schedule in meanings])
        results = []
        for (_, schedule), failure in zip(meanings, failures, strict=True):
            if failure is None:  # the board is lost: not tried
                results.append(ms.builder.BuilderResult(None, "stopped"))
                continue
            if failure:
                self.note(Trial(schedule, None, failure))
            path = None if failure else f"{task.key}\n{schedule}"
            results.append(ms.builder.BuilderResult(path, failure or None))
        return results


@derived_object
class Runner(ms.runner.PyRunner):
    """Times built kernels, one after the other."""

    def __init__(self, pool: Pool, note: Note, stopped: Callable[[], bool]) -> None:
        super().__init__()
        self.pool = pool
        self.note = note
        self.stopped = stopped

    def run(self, inputs: list[Any]) -> list[Any]:
        """A future for each, done already."""
        return [_Done(self._time(*str(one.artifact_path).split("\n"))) for one in inputs]

    def _time(self, key: str, text: str) -> Any:
        if self.stopped():
            return ms.runner.RunnerResult(None, "stopped")
        trial = timed(self.pool, Task.parse(key), Schedule.parse(text))
        if trial is None:
            return ms.runner.RunnerResult(None, "stopped")
        self.note(trial)
        return runner_result(trial)


@derived_object
class _Done(ms.runner.PyRunnerFuture):
    """The result of a run that is over."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self._result = result

    def done(self) -> bool:
        """It is."""
        return True

    def result(self) -> Any:
        """The result."""
        return self._result
