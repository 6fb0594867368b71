"""Worker processes: a kernel that crashes or hangs takes one of them along, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.schedules import Schedule
from gq_tvm.tuning.bench import Bench, Measurement
from gq_tvm.tuning.modelled_bench import ModelledBench
from gq_tvm.tuning.task import Task

MakeBench = Callable[[], Bench | ModelledBench]

_START_SECONDS = 120.0  # importing TVM takes some, on a busy machine more
_CALL_SECONDS = 60.0


class Worker:
    """A bench in a process of its own, started again whenever it was lost."""

    def __init__(self, threads: int = 1, make_bench: MakeBench = Bench) -> None:
        self._threads = threads
        self._make_bench = make_bench
        self._process: Any = None
        self._end: Connection | None = None

    def start(self) -> None:
        """Start the process unless it runs. Raises `Error` if it does not start."""
        self._running()

    def call(self, method: str, *arguments: Any, seconds: float = _CALL_SECONDS) -> Any:
        """Call a method of the bench.

        Raises:
            Error: it raised something, crashed, or took longer than `seconds`.
        """
        end = self._running()
        try:
            end.send((method, arguments))
            if not end.poll(seconds):
                self.close()
                raise Error(f"took longer than {seconds:g} s")
            good, result = end.recv()
        except (EOFError, OSError):
            raise Error(f"crashed ({self._cause()})") from None
        if not good:
            raise Error(result)
        return result

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _cause(self) -> str:
        self._process.join(timeout=5)
        code = self._process.exitcode
        self.close()
        return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"

    def _running(self) -> Connection:
        if self._process is not None and self._end is not None:
            return self._end
        context = multiprocessing.get_context("spawn")
        self._end, its_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(its_end, self._make_bench), daemon=True
        )
        with _environment(TVM_NUM_THREADS=str(self._threads)):
            self._process.start()
        its_end.close()
        if not self._end.poll(_START_SECONDS):
            self.close()
            raise Error("a worker process does not start; try again when the machine is less busy")
        try:
            refusal = self._end.recv()
        except EOFError:
            raise Error(f"a worker process does not start ({self._cause()})") from None
        if refusal:
            self.close()
            raise Error(refusal)
        return self._end


class Pool:
    """Workers that build side by side; timing is done one kernel at a time.

    Each runs kernels in its process, on the board at `rpc`, or if `modelled` under QEMU.
    """

    def __init__(
        self, jobs: int, threads: int = 1, rpc: str | None = None, modelled: bool = False
    ) -> None:
        make_bench: MakeBench = ModelledBench if modelled else partial(Bench, rpc)
        self._workers = [Worker(threads, make_bench) for _ in range(jobs)]
        self._owners: dict[tuple[Task, Schedule], Worker] = {}

    def start(self) -> None:
        """Start the workers. Raises `Error` if they cannot."""
        with ThreadPoolExecutor(len(self._workers)) as executor:
            list(executor.map(Worker.start, self._workers))

    def build(self, task: Task, schedules: Sequence[Schedule]) -> list[str]:
        """Build and check kernels; what went wrong with each, "" if nothing did."""
        alike = sorted(schedules, key=lambda one: one.layout)  # a layout's weights are packed once
        size = -(-len(alike) // len(self._workers))
        shares = [alike[i * size : (i + 1) * size] for i in range(len(self._workers))]

        def build_share(worker: Worker, share: Sequence[Schedule]) -> list[tuple[Schedule, str]]:
            return [(schedule, _failure(worker, task, schedule)) for schedule in share]

        with ThreadPoolExecutor(len(self._workers)) as executor:
            done = list(executor.map(build_share, self._workers, shares))
        failures = {}
        for worker, share in zip(self._workers, done, strict=True):
            for schedule, failure in share:
                failures[schedule] = failure
                self._owners[task, schedule] = worker
        return [failures[schedule] for schedule in schedules]

    def time(self, task: Task, schedule: Schedule) -> Measurement:
        """Time a kernel that `build` has built. Raises `Error` if that fails."""
        worker = self._owners.pop((task, schedule), self._workers[0])
        return worker.call("time", task, schedule)

    def duel(
        self, task: Task, schedules: list[Schedule], rounds: int
    ) -> list[tuple[Measurement, ...]]:
        """See `Bench.duel`. Raises `Error` if one of the kernels fails."""
        seconds = _CALL_SECONDS * len(schedules)
        return self._workers[0].call("duel", task, schedules, rounds, seconds=seconds)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def _failure(worker: Worker, task: Task, schedule: Schedule) -> str:
    try:
        worker.call("build", task, schedule)
    except Error as failure:
        return str(failure) or "failed"
    return ""


def _serve(end: Connection, make_bench: MakeBench) -> None:
    """Answer calls until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    with suppress(EOFError, BrokenPipeError):
        try:
            bench = make_bench()
        except Error as refusal:
            end.send(str(refusal))
            return
        end.send("")
        while True:
            end.send(_answer(bench, *end.recv()))


def _answer(
    bench: Bench | ModelledBench, method: str, arguments: tuple[Any, ...]
) -> tuple[bool, Any]:
    """Whether a call went well, and its result or else what was wrong."""
    try:
        return True, getattr(bench, method)(*arguments)
    except Exception as failure:
        lines = str(failure).strip().splitlines() or [type(failure).__name__]
        return False, lines[-1]


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables for a process that is started."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
