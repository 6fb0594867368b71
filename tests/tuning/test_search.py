"""The search and what is kept of it, with kernels that are never built."""

from __future__ import annotations

import io
import signal
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import pytest

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.runtime.devices.device import DeviceLost
from gq_tvm.schedules import FAMILIES, Product, Schedule, family
from gq_tvm.schedules.choosing import database
from gq_tvm.schedules.choosing.chooser import Chooser
from gq_tvm.schedules.choosing.database import Database, Entry
from gq_tvm.schedules.cpu.engines.lookup import LookupEngine
from gq_tvm.tune import TRIALS
from gq_tvm.tuning import log
from gq_tvm.tuning.bench import Measurement
from gq_tvm.tuning.features import features
from gq_tvm.tuning.log import Log, Trial
from gq_tvm.tuning.pool import Loss
from gq_tvm.tuning.progress import Progress
from gq_tvm.tuning.task import Task, fingerprint
from gq_tvm.tuning.tuner import tasks_for, tune

V4 = targets.get("x86-64-v4")
PRODUCT = Product(300, 40, 4, "int8", 8)


def schedule(vectors: int, rows: int, block: int = 16) -> Schedule:
    return family("lookup").schedule({"vectors": vectors, "rows": rows, "block": block})


SPACE = [schedule(v, r) for v in (4, 1, 2, 8) for r in (4, 1, 2, 6, 8)]
BEST = schedule(2, 6)


class FakePool:
    """Kernels whose times follow from their schedules."""

    lost: Loss | None = None

    def __init__(self, wrong: tuple[Schedule, ...] = (), crashing: tuple[Schedule, ...] = ()):
        self.wrong, self.crashing = wrong, crashing
        self.interrupt: int | None = None  # comes with the trial of this number
        self.tried: list[Schedule] = []
        self.duels: list[list[Schedule]] = []

    def start(self) -> None:
        pass

    def build(self, task, schedules):
        return ["wrong result: 1 of 9 values differ" * (one in self.wrong) for one in schedules]

    def time(self, task, schedule):
        if len(self.tried) == self.interrupt:
            signal.raise_signal(signal.SIGINT)
        self.tried.append(schedule)
        if schedule in self.crashing:
            raise Error("crashed (SIGSEGV)")
        return self.measured(schedule)

    def duel(self, task, schedules, rounds):
        self.duels.append(schedules)
        return [tuple(map(self.measured, schedules)) for _ in range(rounds)]

    def measured(self, schedule):
        time = (
            10.0 + abs(schedule["vectors"] - BEST["vectors"]) + abs(schedule["rows"] - BEST["rows"])
        )
        return Measurement(time, 4 * time)


@pytest.fixture(autouse=True)
def space(monkeypatch) -> list[Schedule]:
    monkeypatch.setattr(LookupEngine, "space", classmethod(lambda *_: list(SPACE)))
    return SPACE


@pytest.fixture
def task() -> Task:
    return Task("x86-64-v4", "lookup", PRODUCT)


def run(
    path: Path, pool: FakePool, *tasks: Task, trials: int = 64, text: io.StringIO | None = None
):
    progress = Progress(text or io.StringIO())
    return tune(tasks, trials, path, "a CPU", pool, progress)  # type: ignore[arg-type]


def test_the_best_of_the_space_is_found(tmp_path, task):
    path, pool = tmp_path / "mine.json", FakePool()
    (tuned,) = run(path, pool, task)
    assert tuned.entry.schedule == str(BEST)
    assert (tuned.entry.hot, tuned.entry.cold, tuned.entry.cpu) == (10.0, 40.0, "a CPU")
    assert tuned.entry.default_hot == pool.measured(task.default).hot
    assert database.read(path, V4) == [tuned.entry]
    assert pool.tried[0] == task.default
    assert len(set(pool.tried)) == len(pool.tried)
    (finalists,) = pool.duels
    assert finalists[:2] == [task.default, BEST]


@pytest.mark.slow
def test_few_trials_follow_the_cost_model(tmp_path, task, monkeypatch, space):
    """Among 200 schedules, 48 trials come nearer to the best than chance would."""
    many = [schedule(v, r, b) for b in range(1, 21) for v in (4, 1) for r in (1, 2, 4, 6, 8)]
    monkeypatch.setattr(LookupEngine, "space", classmethod(lambda *_: many))
    monkeypatch.setattr("gq_tvm.tuning.strategy.fingerprint", lambda task, one: hash(one))
    pool = FakePool()
    pool.measured = lambda s: Measurement(  # type: ignore[method-assign]
        100.0 + 10 * s["block"] + 5 * abs(s["rows"] - 6) + 5 * abs(s["vectors"] - 1), None
    )
    (tuned,) = run(tmp_path / "mine.json", pool, Task("x86-64-v4", "lookup", PRODUCT), trials=48)
    assert len(pool.tried) == 48
    assert tuned.entry.hot <= 120.0  # of 110 to 340


def test_kernels_that_are_the_same_are_tried_once(tmp_path, monkeypatch):
    one_row = Task("x86-64-v4", "lookup", Product(300, 40, 4, "int8", 1))
    assert fingerprint(one_row, schedule(4, 1)) == fingerprint(one_row, schedule(4, 8))
    assert fingerprint(one_row, schedule(4, 1)) != fingerprint(one_row, schedule(2, 1))
    pool = FakePool()
    run(tmp_path / "mine.json", pool, one_row)
    assert sorted(one["vectors"] for one in pool.tried) == [1, 2, 4, 8]


def test_wrong_and_crashing_kernels_are_rejected(tmp_path, task):
    text, pool = io.StringIO(), FakePool(wrong=(BEST,), crashing=(schedule(2, 8),))
    (tuned,) = run(tmp_path / "mine.json", pool, task, text=text)
    assert BEST not in pool.tried
    assert tuned.entry.schedule == str(schedule(1, 6))
    assert tuned.rejected == 2
    assert "2 rejected" in text.getvalue()


@pytest.mark.parametrize(
    "others",  # of those after the default, in the rounds of a duel: none is faster for sure
    [
        lambda turn: Measurement(10.0, 41.0),
        lambda turn: Measurement(9 + 1.5 * (turn % 2), 36 + 6.0 * (turn % 2)),
    ],
    ids=["slower", "by chance"],
)
def test_what_is_not_faster_side_by_side_replaces_nothing(tmp_path, task, others):
    pool = FakePool()

    def duel(task, schedules, rounds):
        return [
            (Measurement(10.0, 40.0), *(others(turn) for _ in schedules[1:]))
            for turn in range(rounds)
        ]

    pool.duel = duel  # type: ignore[method-assign]
    (tuned,) = run(tmp_path / "mine.json", pool, task)
    assert tuned.entry.schedule == str(task.default)


@pytest.mark.parametrize("trials", [1, 5, 64])
@pytest.mark.parametrize("untuned", [BEST, schedule(2, 8)])
def test_what_is_taken_untuned_stays_unless_it_is_beaten(tmp_path, task, trials, untuned):
    task, text = replace(task, untuned=untuned), io.StringIO()
    pool = FakePool()
    (tuned,) = run(tmp_path / "mine.json", pool, task, trials=trials, text=text)
    assert pool.tried[0] == pool.duels[0][0] == untuned
    assert tuned.entry.hot <= pool.measured(untuned).hot == tuned.entry.default_hot
    assert ("as untuned" in text.getvalue()) == (tuned.entry.schedule == str(untuned))
    if trials == 1 or untuned == BEST:
        assert tuned.entry.schedule == str(untuned)


@pytest.mark.usefixtures("interrupts")
def test_a_run_that_is_stopped_leaves_no_product_to_another_ones_schedule(tmp_path, task):
    path, other = tmp_path / "mine.json", replace(PRODUCT, n=600)
    tasks = replace(task, untuned=SPACE[3]), replace(task, product=other, untuned=SPACE[7])
    early, late = FakePool(), FakePool()
    early.interrupt, late.interrupt = 0, 4
    assert run(path, early, *tasks) == []
    assert not path.exists()
    assert len(run(path, late, *tasks)) == 1
    chooser = Chooser(V4, Database(database.read(path, V4)))
    assert chooser.choice(family("lookup"), other).schedule == SPACE[7]
    # What goes on compares with what was taken before it was stopped.
    again = tasks_for([other], chooser, "lookup")[0]
    assert again.default == SPACE[7]


def test_what_fails_untuned_is_replaced_by_what_works(tmp_path, task):
    text, task = io.StringIO(), replace(task, untuned=BEST)
    (tuned,) = run(tmp_path / "mine.json", FakePool(wrong=(BEST,)), task, text=text)
    assert tuned.entry.schedule == str(schedule(1, 6))
    assert (tuned.entry.default_hot, tuned.entry.default_cold) == (None, None)
    assert "what is taken untuned fails" in text.getvalue()
    assert database.read(tmp_path / "mine.json", V4) == [tuned.entry]


def test_a_comparison_that_fails_changes_nothing(tmp_path, task):
    path, text, pool = tmp_path / "mine.json", io.StringIO(), FakePool()

    def crash(*_):
        raise Error("crashed (SIGSEGV)")

    pool.duel = crash  # type: ignore[method-assign]
    assert run(path, pool, task, text=text) == []
    assert "crashed (SIGSEGV); what was taken before stays" in text.getvalue()
    assert [one.schedule for one in database.read(path, V4)] == [str(task.default)]
    (tuned,) = run(path, FakePool(), task)
    assert tuned.entry.schedule == str(BEST)


def test_it_goes_on_where_it_was(tmp_path, task):
    path, first = tmp_path / "mine.json", FakePool()
    run(path, first, task, trials=7)
    assert len(first.tried) == 7
    second = FakePool()
    run(path, second, task)
    assert len(second.tried) == len(SPACE) - 7
    assert not set(first.tried) & set(second.tried)
    third, text = FakePool(), io.StringIO()
    assert run(path, third, task, text=text) == []
    assert (third.tried, third.duels) == ([], [])
    assert "tuned before (20 trials)" in text.getvalue()
    path.unlink()  # the log alone is no result
    assert len(run(path, FakePool(), task)) == 1
    assert database.read(path, V4)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_keeps_what_was_measured(tmp_path, task):
    path, pool, text = tmp_path / "mine.json", FakePool(), io.StringIO()
    pool.interrupt = 4
    (tuned,) = run(path, pool, task, text=text)
    assert len(pool.tried) == tuned.trials == 5  # the trial under way is finished
    assert "stopped after 5 trials" in text.getvalue()
    assert "the same command goes on" in text.getvalue()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupts")
def test_a_second_interrupt_ends_it(tmp_path, task):
    pool = FakePool()

    def build(task, schedules):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    pool.build = build  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "mine.json", pool, task)


class LosingPool(FakePool):
    """A board that is lost for good when it has made so many trials."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def time(self, task, schedule):
        if len(self.tried) < self.after:
            return super().time(task, schedule)
        self.lost = Loss("the board was lost", schedule)
        raise DeviceLost(self.lost.reason)

    def duel(self, task, schedules, rounds):
        if self.lost:
            raise DeviceLost(self.lost.reason)
        return super().duel(task, schedules, rounds)


def test_a_lost_board_ends_it_and_keeps_what_was_measured(tmp_path, task):
    path, text = tmp_path / "mine.json", io.StringIO()
    said = "the board was lost; what was measured is kept .* the same command goes on"
    first = LosingPool(after=5)
    untuned = {str(task.default)}
    with pytest.raises(Error, match=said):
        run(path, first, task, text=text)
    assert "stopped after 5 trials" in text.getvalue()
    assert {one.schedule for one in database.read(path, V4)} == untuned
    # What took the board along twice is not tried a third time.
    second = LosingPool(after=0)
    first_lost = first.lost
    with pytest.raises(Error, match=said):
        run(path, second, task)
    third = FakePool()
    (tuned,) = run(path, third, task)
    assert first_lost is not None
    made = [*first.tried, *third.tried]
    assert len(made) == len(set(made))
    assert (len(made) == len(SPACE)) == (second.lost != first_lost)
    assert tuned.trials == len(SPACE)
    assert database.read(path, V4) == [tuned.entry]


def trial(schedule: Schedule, hot: float = 1.0) -> Trial:
    return Trial(schedule, Measurement(hot, None))


def test_the_log_survives_a_torn_line(tmp_path, task):
    path = tmp_path / "log.jsonl"
    writer = Log(path, "a CPU")
    writer.add(task, trial(SPACE[0]))
    writer.add(task, Trial(SPACE[1], None, "crashed"))
    with open(path, "a") as file:
        file.write('{"task": "loo')
    again = Log(path, "a CPU")
    again.add(task, trial(SPACE[2]))
    wanted = [trial(SPACE[0]), Trial(SPACE[1], None, "crashed"), trial(SPACE[2])]
    assert list(Log(path, "a CPU").trials(task).values()) == wanted


def test_what_took_the_board_along_twice_has_failed(tmp_path, task):
    path = tmp_path / "log.jsonl"
    Log(path, "a CPU").lose(task, SPACE[0], "gone")
    again = Log(path, "a CPU")
    assert again.trials(task) == {}
    again.lose(task, SPACE[0], "gone")
    lost = Trial(SPACE[0], None, "the board was lost twice while it ran")
    for one in (again, Log(path, "a CPU")):
        assert list(one.trials(task).values()) == [lost]


def test_the_log_forgets_other_machines_and_kernels_that_changed(tmp_path, task, monkeypatch):
    """Of the code that makes a kernel nothing counts but the kernel: words may change."""
    path = tmp_path / "log.jsonl"
    writer = Log(path, "a CPU")
    for schedule in SPACE[:2]:
        writer.add(task, trial(schedule))
    writer.decide(task)
    assert Log(path, "another CPU").trials(task) == {}
    assert Log(path, "a CPU").decided(task)
    unchanged = fingerprint(task, SPACE[1])
    monkeypatch.setattr(log, "fingerprint", lambda task, one: unchanged)
    assert list(Log(path, "a CPU").trials(task)) == [SPACE[1]]
    assert not Log(path, "a CPU").decided(task)


def test_a_fingerprint_is_that_of_the_kernel(task):
    fingerprint.cache_clear()
    before = fingerprint(task, SPACE[0])
    fingerprint.cache_clear()
    assert fingerprint(task, SPACE[0]) == before
    assert fingerprint(task, SPACE[1]) != before


def test_tasks(task):
    products = [PRODUCT, PRODUCT, Product(8, 8, 2, "int8", 1)]
    chooser = Chooser(V4, Database())
    found = tasks_for(products, chooser)
    assert task in found
    assert len(found) == len(set(found))
    assert {one.family for one in found} >= {"lookup"}
    assert not {one.family for one in found} & {"scalar", "dense_f32"}
    assert [one.family for one in tasks_for(products, chooser, "lookup")] == ["lookup"] * 2
    with pytest.raises(Error, match="nothing to tune: no kernel scalar on x86-64-v4"):
        tasks_for(products, chooser, "scalar")
    assert Task.parse(task.key) == task
    assert str(task) == "lookup 300x40, 8 rows, 4 bits"


def test_the_baseline_is_what_compile_takes(task):
    """The tuned schedule, the nearest one, the family's first; what is illegal is passed over."""

    def entry(schedule: Schedule, **fields: Any) -> Entry:
        times = {"hot": 1.0, "cold": None, "default_hot": 1.0, "default_cold": None}
        about = {**vars(PRODUCT), **times, "family": "lookup", "threads": 1, "cpu": "", **fields}
        del about["outliers"]
        return Entry(**about, schedule=str(schedule), version="")

    mine, shipped, near = entry(SPACE[1]), entry(SPACE[2]), entry(SPACE[3], n=600)
    illegal = entry(schedule(4, 7))
    for known, untuned in (
        ([mine, shipped], SPACE[1]),
        ([illegal, shipped, near], SPACE[2]),
        ([illegal, near], SPACE[3]),
        ([entry(SPACE[4], cpu="modelled x86-64-v4"), shipped], SPACE[2]),
        ([entry(SPACE[3], n=2400), entry(SPACE[4], rows=None)], SPACE[4]),
        ([illegal], SPACE[0]),
    ):
        (found,) = tasks_for([PRODUCT], Chooser(V4, Database(known)), "lookup")
        assert found.default == untuned


def test_the_default_number_of_trials_is_all_there_is():
    for target, one, bits in product(targets.TARGETS.values(), FAMILIES, range(1, 9)):
        for activation, rows in product(("int8", "fp32", "int2", "int1"), (1, 4, 16, 64, None)):
            wanted = Product(4096, 1024, bits, activation, rows)
            if one.supports(target, wanted):
                assert len(one.space(target, wanted)) <= TRIALS


def test_features_tell_schedules_apart(task):
    rows = [features(task, one) for one in SPACE]
    assert len({row.tobytes() for row in rows}) == len(SPACE)
    assert {row.shape for row in rows} == {rows[0].shape}
    assert all(abs(row).max() < inf for row in rows)


def test_progress_says_how_far_and_how_long(task):
    progress = Progress(io.StringIO())
    progress.begin([10, 10])
    progress.task(1, task, [])
    for one in SPACE[:4]:
        progress.trial(trial(one, hot=5.0 - one["rows"] / 2))
    progress.trial(Trial(SPACE[5], None, "crashed"))
    line = progress.line()
    assert "lookup 300x40, 8 rows, 4 bits: 5/10 trials" in line
    assert "best 2.0 us (untuned 3.0)" in line
    assert "1 rejected, task 1/2" in line
    assert "trials/s" in line
    assert line.endswith("left")
