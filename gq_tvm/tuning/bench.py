"""Build a kernel, check what it computes, time it: what a worker process does."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.runtime.devices.device import Device, LocalDevice, connect
from gq_tvm.schedules import Schedule
from gq_tvm.targets import Target
from gq_tvm.toolchain.linker import export
from gq_tvm.tuning.case import Case
from gq_tvm.tuning.task import Task

NAME = "kernel"

_HOT_SECONDS = 0.02  # of measuring, for a trial
_HOT_REPEATS = (5, 40)
_REPEAT_SECONDS = 1e-4  # so long a clock's step does not matter
_COLD_RUNS = 3
_FLUSH = "gq_tvm.tuning.flush"
_FLUSH_BYTES = 64 << 20  # more than the caches of most machines
_other = np.zeros(_FLUSH_BYTES, np.uint8)


@dataclass(frozen=True)
class Measurement:
    """Microseconds of the fastest of some calls: weights in the cache, and the cache flushed."""

    hot: float
    cold: float | None


class Bench:
    """Runs kernels in this process, or on a board."""

    def __init__(self, rpc: str | None = None) -> None:
        self._rpc = rpc
        self._device: Device = connect(rpc)
        self._case: Case | None = None
        self._built: dict[tuple[Task, Schedule], tuple[Any, list[Any]]] = {}

    def build(self, task: Task, schedule: Schedule) -> None:
        """Compile a kernel and check its results.

        Raises:
            Error: it computes something else than the reference.
        """
        self._prepare(task)
        module = self._module(task.kernel(schedule).with_attr("global_symbol", NAME), task.target)
        assert self._case is not None
        inputs, outputs = self._case.arguments(schedule)
        arguments = [self._device.tensor(array) for array in (*inputs, *outputs)]
        with self._device.guard():
            module[NAME](*arguments)
            results = [one.numpy() for one in arguments[len(inputs) :]]
        wrong = self._case.wrong(results)
        if wrong:
            raise Error(wrong)
        self._built[task, schedule] = (module, arguments)

    def time(self, task: Task, schedule: Schedule) -> Measurement:
        """Time a kernel, built here before or now."""
        self._prepare(task)
        if (task, schedule) not in self._built:
            self.build(task, schedule)
        return self._measure(*self._built.pop((task, schedule)))

    def duel(
        self, task: Task, schedules: list[Schedule], rounds: int
    ) -> list[tuple[Measurement, ...]]:
        """Time kernels in turns: the rounds, with a measurement of each kernel in order."""
        for schedule in schedules:
            self.build(task, schedule)
        results = []
        for turn in range(rounds):
            order = schedules if turn % 2 else schedules[::-1]
            found = {one: self._measure(*self._built[task, one]) for one in order}
            results.append(tuple(found[one] for one in schedules))
        self._built.clear()
        return results

    def reach(self) -> None:
        """Connect again if the board was lost, and with it what was built there.

        Raises:
            DeviceLost: nobody answers.
        """
        if not getattr(self._device, "alive", True):
            self._built.clear()
            self._device = connect(self._rpc)

    def _prepare(self, task: Task) -> None:
        if self._case is None or self._case.task != task:
            self._built.clear()
            self._case = Case(task)
        self.reach()

    def _module(self, kernel: tvm.tirx.PrimFunc, target: str) -> Any:
        where = targets.get(target)
        built = compiled(kernel, where)
        if isinstance(self._device, LocalDevice):
            return built.jit()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.so"
            export(built, path, where.triple)
            return self._device.load_module(path)

    def _measure(self, module: Any, arguments: list[Any]) -> Measurement:
        def evaluate(number: int, repeat: int, before: str = "") -> list[float]:
            with self._device.guard():
                timer = module.time_evaluator(
                    NAME, self._device.cpu, number=number, repeat=repeat, f_preproc=before
                )
                return list(timer(*arguments).results)

        once = min(evaluate(1, 3))
        number = max(1, round(_REPEAT_SECONDS / max(once, 1e-9)))
        least, most = _HOT_REPEATS
        repeats = min(most, max(least, round(_HOT_SECONDS / (number * max(once, 1e-9)))))
        hot = min(evaluate(number, repeats))
        cold = None if self._rpc else 1e6 * min(evaluate(1, _COLD_RUNS, before=_FLUSH))
        return Measurement(1e6 * hot, cold)


def compiled(kernel: tvm.tirx.PrimFunc, target: Target) -> Any:
    """Compile a kernel called `NAME`, without checks of arguments: they take LLVM as long as it."""
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        return tvm.compile(tvm.IRModule({NAME: kernel}), target=target.tvm)


@tvm.register_global_func(_FLUSH, override=True)
def _flush(*_: Any) -> None:
    """Read and write more than the caches hold; TVM's timer calls it between its runs."""
    np.add(_other, 1, out=_other)
