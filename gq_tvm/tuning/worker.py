"""Worker processes: a kernel that crashes or hangs takes one of them along, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.runtime.devices.device import DeviceLost
from gq_tvm.tuning.bench import Bench
from gq_tvm.tuning.modelled_bench import ModelledBench

MakeBench = Callable[[], Bench | ModelledBench]

_START_SECONDS = 120.0  # importing TVM takes some, on a busy machine more
CALL_SECONDS = 60.0


class TookLong(Error):
    """A call was given up."""


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

    def call(self, method: str, *arguments: Any, seconds: float = CALL_SECONDS) -> Any:
        """Call a method of the bench.

        Raises:
            DeviceLost: the board is not there any more.
            TookLong: it took longer than `seconds`.
            Error: it raised something else, or crashed.
        """
        end = self._running()
        try:
            end.send((method, arguments))
            if not end.poll(seconds):
                self.close()
                raise TookLong(f"took longer than {seconds:g} s")
            failure, result = end.recv()
        except (EOFError, OSError):
            raise Error(f"crashed ({self._cause()})") from None
        if failure is not None:
            raise failure(result)
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
        process = context.Process(target=_serve, args=(its_end, self._make_bench), daemon=True)
        with _environment(TVM_NUM_THREADS=str(self._threads)):
            process.start()
        self._process = process
        its_end.close()
        if not self._end.poll(_START_SECONDS):
            self.close()
            raise Error("a worker process does not start; try again when the machine is less busy")
        try:
            failure, refusal = self._end.recv()
        except EOFError:
            raise Error(f"a worker process does not start ({self._cause()})") from None
        if failure is not None:
            self.close()
            raise failure(refusal)
        return self._end


def _serve(end: Connection, make_bench: MakeBench) -> None:
    """Answer calls until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    with suppress(EOFError, BrokenPipeError):
        try:
            bench = make_bench()
        except Error as refusal:
            end.send((_kind(refusal), str(refusal)))
            return
        end.send((None, None))
        while True:
            end.send(_answer(bench, *end.recv()))


def _answer(
    bench: Bench | ModelledBench, method: str, arguments: tuple[Any, ...]
) -> tuple[type[Error] | None, Any]:
    """None and the result of a call, or else what to raise and what was wrong."""
    try:
        return None, getattr(bench, method)(*arguments)
    except Exception as failure:
        lines = str(failure).strip().splitlines() or [type(failure).__name__]
        return _kind(failure), lines[-1]


def _kind(failure: Exception) -> type[Error]:
    return DeviceLost if isinstance(failure, DeviceLost) else Error


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
