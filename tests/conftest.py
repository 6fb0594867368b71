from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

# No deadlines: this machine may be busy with something else. The same examples each time in CI.
settings.register_profile("gq", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gq")


class Boards:
    """Emulated boards, started when first asked for, with a connection each."""

    def __init__(self) -> None:
        self._boards: dict = {}
        self._connections: dict = {}

    def connect(self, cpu: str = "cortex-a72", machine: str = "aarch64"):
        """Return the connection to an emulated CPU; a new one if the last was lost.

        Of 32 bits ("armhf") there is no server: what runs single kernels is returned. Where the
        emulator is not set up the test is skipped, and fails in CI.
        """
        from helpers.kernel_program import KernelProgram

        from gq_tvm.runtime import board, emulator

        able, reason = emulator.available()
        if not able and os.environ.get("CI"):
            pytest.fail(reason)
        if not able:
            pytest.skip(reason)
        if machine == "armhf":
            return KernelProgram(board.locate().kernel_runner_32(cpu))
        if cpu not in self._boards:
            self._boards[cpu] = emulator.EmulatedDevice(cpu)
        if cpu not in self._connections or not self._connections[cpu].alive:
            self._connections[cpu] = self._boards[cpu].connect()
        return self._connections[cpu]

    def close(self) -> None:
        for one in (*self._connections.values(), *self._boards.values()):
            one.close()


@pytest.fixture(scope="session")
def emulated() -> Iterator[Callable]:
    """``emulated("cortex-a76")``: a connection to an emulated CPU, shared by all tests."""
    boards = Boards()
    yield boards.connect
    boards.close()


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Interrupts as in a terminal, for the time of a test: `nohup` has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
