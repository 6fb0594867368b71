from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

# No deadlines: this machine may be busy with something else. The same examples each time in CI.
settings.register_profile("gq", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gq")


@pytest.fixture(scope="session")
def boards() -> Iterator[dict]:
    """The emulated boards that run, by CPU."""
    running: dict = {}
    yield running
    for board in running.values():
        board.close()


@pytest.fixture
def emulated(boards: dict) -> Iterator[Callable]:
    """``emulated("cortex-a76")``: a connection to an emulated CPU, closed when the test ends.

    Where the emulator is not set up the test is skipped, and fails in CI.
    """
    from gq_tvm.runtime import emulator

    connections = []

    def connect(cpu: str = "cortex-a72"):
        able, reason = emulator.available()
        if not able and os.environ.get("CI"):
            pytest.fail(reason)
        if not able:
            pytest.skip(reason)
        if cpu not in boards:
            boards[cpu] = emulator.EmulatedDevice(cpu)
        connections.append(boards[cpu].connect())
        return connections[-1]

    yield connect
    for device in connections:
        device.close()
