from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

# No deadlines: this machine may be busy with something else. The same examples each time in CI.
settings.register_profile("gq", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("gq")


@pytest.fixture(scope="session")
def emulated() -> Iterator[Callable]:
    """``emulated("cortex-a76")``: a new connection to an emulated CPU, started once a session.

    Where the emulator is not set up the test is skipped, and fails in CI.
    """
    from gq_tvm.runtime import emulator

    running: dict[str, emulator.EmulatedDevice] = {}

    def connect(cpu: str = "cortex-a72"):
        able, reason = emulator.available()
        if not able and os.environ.get("CI"):
            pytest.fail(reason)
        if not able:
            pytest.skip(reason)
        if cpu not in running:
            running[cpu] = emulator.EmulatedDevice(cpu)
        return running[cpu].connect()

    yield connect
    for device in running.values():
        device.close()
