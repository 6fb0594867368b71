"""The harness with a clock that only candidates move."""

from __future__ import annotations

import gc

from benchmarks.harness import Harness, Plan, Timing

PLAN = Plan(rounds=3, chunks=2, chunk_us=100, warm_us=10, cold=2, settle_us=7)


class Machine:
    """A machine on which a call costs what is said, and more when the caches are cold."""

    def __init__(self) -> None:
        self.now = 0
        self.cold = False
        self.calls: list[str] = []
        self.slept: list[float] = []
        self.collecting = True

    def candidate(self, name: str, hot_us: float, cold_us: float):
        def run() -> None:
            self.now += round(1000 * (cold_us if self.cold else hot_us))
            self.cold = False
            self.calls.append(name)
            self.collecting = gc.isenabled()

        return run

    def flush(self) -> None:
        self.cold = True
        self.now += 10**9  # outside every figure

    def harness(self) -> Harness:
        return Harness(self.flush, lambda: self.now, self.slept.append)


def test_hot_and_cold():
    machine = Machine()
    runs = {"a": machine.candidate("a", 2, 50), "b": machine.candidate("b", 30, 31)}
    timings = machine.harness().measure(runs, PLAN)
    assert timings == {"a": Timing(2, 2, 50, 50), "b": Timing(30, 30, 31, 31)}
    assert not machine.collecting, "garbage was collected among the figures"
    assert gc.isenabled()


def test_candidates_take_turns_and_every_second_round_runs_backwards():
    machine = Machine()
    runs = {name: machine.candidate(name, 40, 40) for name in "abc"}
    machine.harness().measure(runs, PLAN)
    turns = [name for i, name in enumerate(machine.calls) if i == 0 or machine.calls[i - 1] != name]
    # Calibration in order, then a b c | c b a | a b c: neighbours of the same name are one turn.
    assert "".join(turns) == "abc" + "abcbabc"
    assert machine.slept == [7e-6] * 9


def test_minimum_and_median():
    now = 0
    # One call to calibrate and two to warm, then three hot figures of one call and three cold.
    costs = iter([10, 10, 10, 40, 20, 90, 500, 100, 300])

    def run() -> None:
        nonlocal now
        now += 1000 * next(costs)

    harness = Harness(lambda: None, lambda: now, lambda seconds: None)
    plan = Plan(rounds=1, chunks=3, chunk_us=10, warm_us=10, cold=3)
    assert harness.measure({"a": run}, plan) == {"a": Timing(20, 40, 100, 300)}


def test_a_short_call_is_repeated_and_a_long_one_is_not():
    for cost, least, most in ((0.5, 200, 500), (5000, 1, 5)):
        machine = Machine()
        plan = Plan(rounds=1, chunks=1, chunk_us=100, warm_us=0, cold=1)
        machine.harness().measure({"a": machine.candidate("a", cost, cost)}, plan)
        assert least <= len(machine.calls) <= most
