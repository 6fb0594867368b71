"""Patience with boards: what goes away and comes back, what does not, and what is a kernel's."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers.codebook_models import linear_program

from gq_tvm import targets, tune
from gq_tvm.errors import Error
from gq_tvm.runtime.devices.device import DeviceLost
from gq_tvm.runtime.devices.emulator import EmulatedDevice
from gq_tvm.schedules import Product, family
from gq_tvm.schedules.choosing.database import read
from gq_tvm.schedules.cpu.engines.lookup import LookupEngine
from gq_tvm.tuning import pool
from gq_tvm.tuning.bench import Measurement
from gq_tvm.tuning.pool import Pool
from gq_tvm.tuning.task import Task
from gq_tvm.tuning.worker import TookLong

LOOKUP = family("lookup")
SCHEDULE = LOOKUP.schedule({})
TASK = Task("cortex-a53", "lookup", Product(20, 12, 4, "int8", 3))
GOOD = Measurement(1.0, None)
GONE = DeviceLost("the connection was lost")
HANGS = TookLong("took longer than 60 s")


class Script:
    """A worker that answers calls of a kernel, and of ``reach``, with what is written for it."""

    def __init__(self, answers: list[object], reached: list[object]) -> None:
        self.answers, self.reached = answers, reached

    def call(self, method, *arguments, seconds=0.0):
        answer = (self.reached if method == "reach" else self.answers).pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def scripted(monkeypatch, answers: list[object], reached: list[object]) -> tuple[Pool, list[str]]:
    monkeypatch.setattr(pool, "PAUSES", (0.0, 0.0))
    said: list[str] = []
    made = Pool(1, rpc="board:9090", say=said.append)
    made._workers = [Script(answers, reached)]  # type: ignore[list-item]
    return made, said


@pytest.mark.parametrize("failure", [GONE, HANGS])
def test_a_board_that_comes_back_runs_it_again(monkeypatch, failure):
    made, said = scripted(monkeypatch, [failure, GOOD], [GONE, GONE, None])
    assert made.time(TASK, SCHEDULE) == GOOD
    assert said == [f"{failure}; waiting for the board"]
    assert made.lost is None


def test_a_kernel_that_crashes_twice_has_failed_and_the_board_goes_on(monkeypatch):
    made, said = scripted(monkeypatch, [GONE, GONE, ""], [None, None])
    with pytest.raises(Error, match="crashed, or took the board along, twice") as failure:
        made.time(TASK, SCHEDULE)
    assert not isinstance(failure.value, DeviceLost)
    assert made.build(TASK, [SCHEDULE]) == [""]
    assert (said, made.lost) == ([], None)


def test_a_kernel_that_hangs_twice_has_failed(monkeypatch):
    made, _ = scripted(monkeypatch, [HANGS, HANGS], [None, None])
    assert made.build(TASK, [SCHEDULE]) == ["took longer than 60 s"]
    assert made.lost is None


def test_a_board_that_stays_away_is_given_up(monkeypatch):
    first, second = SCHEDULE, LOOKUP.schedule({"rows": 2})
    made, _ = scripted(monkeypatch, [GONE], [GONE, HANGS, GONE])
    assert made.build(TASK, [first, second]) == [None, None]
    assert made.lost is not None
    assert made.lost.schedule == first
    with pytest.raises(DeviceLost, match="did not come back in"):
        made.time(TASK, second)


@pytest.fixture
def away(monkeypatch, tmp_path) -> list[str]:
    """The arguments of tuning a small model on a board whose clock is taken as it is."""
    space = [LOOKUP.schedule({"vectors": v, "rows": r}) for v in (1, 2, 4) for r in (1, 2, 3, 4)]
    monkeypatch.setattr(LookupEngine, "space", classmethod(lambda *_: list(space)))
    monkeypatch.setattr(tune, "check_clock", lambda device: None)
    torch.export.save(linear_program(20, 12, activation="int8"), tmp_path / "model.pt2")
    options = ["--target", "cortex-a53", "--kernel", "lookup"]
    return [str(tmp_path / "model.pt2"), *options, "--database", str(tmp_path / "mine.json")]


def lines(folder: Path) -> list[dict]:
    path = folder / "mine.log.jsonl"
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


@pytest.mark.emulated
@pytest.mark.slow
def test_a_board_that_is_switched_off_and_on(emulated, away, tmp_path, monkeypatch, capsys):
    """It reboots during a trial, then is gone for good; the next run goes on where it was."""
    emulated()  # skips where there is no emulator
    monkeypatch.setattr(pool, "PAUSES", (0.2, 1, 1, 1))
    boards = [EmulatedDevice("cortex-a53")]
    port = boards[0].port
    failed: list[BaseException] = []

    def switch() -> None:
        def off(trials: int) -> None:
            while len(lines(tmp_path)) < trials:
                time.sleep(0.02)
            os.kill(boards[-1]._process.pid, signal.SIGKILL)

        try:
            off(trials=1)
            time.sleep(0.5)
            boards.append(EmulatedDevice("cortex-a53", port=port))
            off(trials=3)
        except BaseException as problem:
            failed.append(problem)

    thread = threading.Thread(target=switch, daemon=True)
    thread.start()
    try:
        assert tune.main([*away, "--rpc", f"127.0.0.1:{port}"]) == 2
        thread.join()
        assert failed == []
        error = capsys.readouterr().err
        assert "waiting for the board" in error
        last = error.splitlines()[-1]
        assert last.startswith("error: the board was lost and did not come back in 3.2 s (")
        assert last.endswith("when it is back, the same command goes on")
        before = lines(tmp_path)
        assert [one["failure"] for one in before if "failure" in one] == []
        assert len([one for one in before if "hot" in one]) >= 3

        boards.append(EmulatedDevice("cortex-a53", port=port))
        assert tune.main([*away, "--rpc", f"127.0.0.1:{port}"]) == 0
        trials = [one["schedule"] for one in lines(tmp_path) if "hot" in one]
        assert len(trials) == len(set(trials))
        assert lines(tmp_path)[: len(before)] == before
        (entry,) = read(tmp_path / "mine.json", targets.get("cortex-a53"))
        assert entry.schedule in trials
    finally:
        for board in boards:
            board.close()
