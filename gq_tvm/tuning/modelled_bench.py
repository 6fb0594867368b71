"""Build a kernel, check what it computes, model its time: the bench of a device nobody has at hand.

QEMU runs the kernel once for both: its outputs are compared with the reference's as on a board, and
what it executed gives the time (`gq_tvm.modelled`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.modelled import times
from gq_tvm.schedules import Schedule
from gq_tvm.targets import Target
from gq_tvm.toolchain.linker import export
from gq_tvm.tuning.bench import NAME, Measurement, compiled
from gq_tvm.tuning.case import Case
from gq_tvm.tuning.task import Task


class ModelledBench:
    """Does what `Bench` does, with modelled microseconds for measured ones."""

    def __init__(self, target: Target | None = None) -> None:
        """Model the core of each task's target, or of `target`, which runs the same code."""
        self._target = target
        self._case: Case | None = None
        self._times: dict[tuple[Task, Schedule], Measurement] = {}

    def build(self, task: Task, schedule: Schedule) -> None:
        """Compile a kernel, check its results under QEMU and model its time.

        Raises:
            Error: it computes something else than the reference, or cannot be modelled.
        """
        if self._case is None or self._case.task != task:
            self._case = Case(task)
        inputs, outputs = self._case.arguments(schedule)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.so"
            target = self._target or targets.get(task.target)
            built = compiled(task.kernel(schedule).with_attr("global_symbol", NAME), target)
            export(built, path, target.triple)
            found, results = times.call(path, NAME, [*inputs, *outputs], target)
        wrong = self._case.wrong(results[len(inputs) :])
        if wrong:
            raise Error(wrong)
        self._times[task, schedule] = Measurement(found.hot, found.cold)

    def time(self, task: Task, schedule: Schedule) -> Measurement:
        """The modelled time of a kernel, built here before or now."""
        if (task, schedule) not in self._times:
            self.build(task, schedule)
        return self._times[task, schedule]

    def duel(
        self, task: Task, schedules: list[Schedule], rounds: int
    ) -> list[tuple[Measurement, ...]]:
        """The modelled times of kernels, in each of the rounds: they are the same every time."""
        return [tuple(self.time(task, one) for one in schedules)] * rounds
