from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

import gq_tvm

if TYPE_CHECKING:
    from gq_tvm.runtime.artefact.folder import Artefact

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

        from gq_tvm.runtime.devices import board, emulator

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
def digits() -> Artefact:
    """The shipped recogniser, compiled for this machine."""
    from gq_tvm.build import build

    return build(Path(gq_tvm.__file__).parent / "models" / "digits" / "digits.pt2")


@pytest.fixture(scope="session")
def boards() -> Iterator[Boards]:
    """Shared by all tests, each of which takes one by `emulated`."""
    boards = Boards()
    yield boards
    boards.close()


@pytest.fixture
def emulated(boards: Boards, request: pytest.FixtureRequest) -> Callable:
    """``emulated("cortex-a76")``: a connection to an emulated CPU.

    Tests that call it are marked so: those with a parameter that names a target of ARM's are.
    """

    def connect(*which: str):
        assert request.node.get_closest_marker("emulated"), "mark this test as emulated"
        return boards.connect(*which)

    return connect


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are to run code of ARM's as `emulated`.

    And as `slow` those of the same on further instruction sets of x86: the fast part tries AVX2.
    """
    able = [one for one in items if "emulated" in getattr(one, "fixturenames", ())]
    if not able:
        return
    from gq_tvm.targets import TARGETS

    arm = {name for name, one in TARGETS.items() if one.machine != "x86_64"}
    for item in able:
        callspec = getattr(item, "callspec", None)
        texts = (
            {one for one in callspec.params.values() if isinstance(one, str)} if callspec else set()
        )
        if arm.intersection(texts):
            item.add_marker("emulated")
        elif (TARGETS.keys() & texts) - {"x86-64-v3"}:
            item.add_marker("slow")


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Interrupts as in a terminal, for the time of a test: `nohup` has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """``compress`` does not tune where a test says nothing: what it tests is another stage."""
    module = sys.modules.get("gq_tvm.quantize.compress")
    if module is not None:
        monkeypatch.setattr(module, "_STEPS", 0)
