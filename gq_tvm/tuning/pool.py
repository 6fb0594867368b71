"""The workers of a search, and patience with a board that goes away."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.runtime.devices.device import DeviceLost
from gq_tvm.schedules import Schedule, family
from gq_tvm.tuning.bench import Bench, Measurement
from gq_tvm.tuning.modelled_bench import ModelledBench
from gq_tvm.tuning.task import Task
from gq_tvm.tuning.worker import CALL_SECONDS, MakeBench, TookLong, Worker

PAUSES = (1, 2, 4, 8, 15, 15, 15)  # seconds; a small board boots within a minute


@dataclass(frozen=True)
class Loss:
    """A board that went away and did not come back.

    Attributes:
        reason: What happened, in a sentence.
        schedule: What it ran then; None if that was several schedules in turns.
    """

    reason: str
    schedule: Schedule | None


class Pool:
    """Workers that build side by side; timing is done one kernel at a time.

    A board that goes away or hangs is waited for, and what it ran is run once more: a kernel that
    crashes or hangs there again fails, and so does one that takes the board along twice.

    Attributes:
        lost: Once the board is given up; no call after that reaches it.
    """

    def __init__(
        self,
        jobs: int,
        threads: int = 1,
        rpc: str | None = None,
        say: Callable[[str], object] = lambda line: print(line, file=sys.stderr),
        modelled: bool = False,
    ) -> None:
        """Prepare `jobs` workers for kernels of `threads` threads.

        `rpc` is HOST:PORT of a board that runs them, `say` is told when that is waited for; if
        `modelled`, QEMU runs them and their times are modelled.
        """
        make_bench: MakeBench = ModelledBench if modelled else partial(Bench, rpc)
        self._workers = [Worker(threads, make_bench) for _ in range(jobs)]
        self._owners: dict[tuple[Task, Schedule], Worker] = {}
        self._rpc = rpc
        self._say = say
        self.lost: Loss | None = None

    def start(self) -> None:
        """Start the workers. Raises `Error` if they cannot."""
        with ThreadPoolExecutor(len(self._workers)) as executor:
            list(executor.map(Worker.start, self._workers))

    def build(self, task: Task, schedules: Sequence[Schedule]) -> list[str | None]:
        """Build and check kernels; what went wrong with each, "" if nothing did.

        None for those that were not tried, as the board is lost.
        """
        # A layout's weights are packed once.
        alike = sorted(schedules, key=family(task.family).layout)
        size = -(-len(alike) // len(self._workers))
        shares = [alike[i * size : (i + 1) * size] for i in range(len(self._workers))]

        def build_share(worker: Worker, share: Sequence[Schedule]) -> list[str | None]:
            return [self._build(worker, task, schedule) for schedule in share]

        with ThreadPoolExecutor(len(self._workers)) as executor:
            done = list(executor.map(build_share, self._workers, shares))
        failures = {}
        for worker, share, found in zip(self._workers, shares, done, strict=True):
            for schedule, failure in zip(share, found, strict=True):
                failures[schedule] = failure
                self._owners[task, schedule] = worker
        return [failures[schedule] for schedule in schedules]

    def _build(self, worker: Worker, task: Task, schedule: Schedule) -> str | None:
        try:
            self._call(worker, "build", task, schedule, schedule=schedule)
        except DeviceLost:
            return None
        except Error as failure:
            return str(failure) or "failed"
        return ""

    def time(self, task: Task, schedule: Schedule) -> Measurement:
        """Time a kernel that `build` has built.

        Raises:
            DeviceLost: the board is lost.
            Error: the kernel fails.
        """
        worker = self._owners.pop((task, schedule), self._workers[0])
        return self._call(worker, "time", task, schedule, schedule=schedule)

    def duel(
        self, task: Task, schedules: list[Schedule], rounds: int
    ) -> list[tuple[Measurement, ...]]:
        """See `Bench.duel`. Raises as `time` does."""
        seconds = CALL_SECONDS * len(schedules)
        return self._call(self._workers[0], "duel", task, schedules, rounds, seconds=seconds)

    def _call(
        self,
        worker: Worker,
        *call: Any,
        schedule: Schedule | None = None,
        seconds: float = CALL_SECONDS,
    ) -> Any:
        """Call a worker; where the board goes away, once more."""
        for again in (True, False):
            if self.lost:
                raise DeviceLost(self.lost.reason)
            try:
                return worker.call(*call, seconds=seconds)
            except DeviceLost as loss:
                self._wait(worker, loss, schedule)
                if not again:
                    raise Error(f"crashed, or took the board along, twice ({loss})") from None
            except TookLong as failure:  # the kernel hangs, or the board does
                if self._rpc:
                    self._wait(worker, failure, schedule)
                if not (self._rpc and again):
                    raise
        raise AssertionError

    def _wait(self, worker: Worker, reason: Error, schedule: Schedule | None) -> None:
        """Wait until the board answers.

        Raises:
            DeviceLost: it does not come back.
        """
        what = str(reason).partition(": ")[0]  # without what to do
        for turn, pause in enumerate((0, *PAUSES)):
            if turn == 1:
                self._say(f"{what}; waiting for the board")
            time.sleep(pause)
            try:
                worker.call("reach")
            except Error:
                continue
            return
        text = f"the board was lost and did not come back in {sum(PAUSES)} s ({what})"
        self.lost = self.lost or Loss(text, schedule)
        raise DeviceLost(text)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
