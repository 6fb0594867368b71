from __future__ import annotations

import os
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks.arm import cost, goals, ours, peers
from benchmarks.arm.candidate import INPUTS, OUTPUTS
from benchmarks.arm.report import render
from benchmarks.arm.results import Results, Row
from gq_tvm import Error, targets
from gq_tvm.modelled import tools

WEIGHTS = OUTPUTS * INPUTS


def row(bits: int, cycles: float, system: str = "gq-tvm", **changes) -> Row:
    """A kernel of one row on a Cortex-A55, with as many instructions as cycles a weight."""
    made = Row(
        core="cortex-a55", rows=1, system=system, name=f"k{bits}", bits=bits, activation="int8",
        codebook="any", detail="", chosen=system == "gq-tvm", weight_bytes=WEIGHTS * bits // 8,
        instructions=round(cycles * WEIGHTS), cycles=cycles * WEIGHTS, streaming=cycles * WEIGHTS,
    )  # fmt: skip
    return replace(made, **changes)


def results(*rows: Row) -> Results:
    cores = {one.core: {"model": "m", "places": "L2", "source": "s"} for one in rows}
    return Results({"made": "today"}, cores, list(rows))


def test_cycles_are_held_against_the_faster_int8_kernel():
    found = results(
        row(8, 0.2), row(8, 0.3, name="dense_int8", chosen=False), row(4, 0.2), row(2, 0.16),
        row(1, 0.01, name="slow one not taken", chosen=False), row(1, 0.05),
    )  # fmt: skip
    met = {one.goal: (round(one.ratio, 2), one.met) for one in goals.cycles(found)}
    assert met == {
        "cycles, 4-bit, 1 row": (1.0, True),
        "bytes, 4-bit, 1 row": (0.5, True),
        "cycles, 2-bit, 1 row": (0.8, False),
        "cycles, 1-bit, 1 row": (0.25, True),
    }


def test_nothing_is_promised_of_other_cores():
    found = results(*(replace(row(bits, 1.0), core="cortex-a72") for bits in (8, 2)))
    assert [one.met for one in goals.cycles(found)] == [None]


def test_instructions_are_held_against_the_leanest_of_each_system():
    found = results(
        row(3, 0.30), row(3, 0.40, "torchao"), row(3, 0.25, "torchao", name="lean"),
        row(3, 0.31, "KleidiAI"), row(3, 0.01, "KleidiAI", activation="fp32"),
        row(3, 0.02, "KleidiAI", codebook="uniform"),
    )  # fmt: skip
    against = {one.against: one.met for one in goals.instructions(found, "any")}
    assert against == {"torchao lean": False, "KleidiAI k3": True}


def test_report_says_that_it_is_modelled_and_shows_every_kernel():
    text = render(results(row(8, 0.2), row(4, 0.1), row(4, 0.15, "torchao", name="1x8x16 lut")))
    assert "Nothing on this page was\nmeasured" in text
    assert "| 1 | 4 | `k4` | 2,097 | 0.1000 | 0.1000 | 0.50 | 0.1000 | 0.50 | 1x8x16 lut |" in text


def test_figures_come_back_from_their_file(tmp_path: Path):
    path, before = tmp_path / "arm.json", results(row(8, 0.25))
    before.absent["torchao"] = "not there"
    before.save(path)
    assert Results.load(path) == before
    path.write_text("{}")
    with pytest.raises(Error, match="no modelled figures of this version"):
        Results.load(path)


def test_peers_take_the_cores_and_rows_they_are_for():
    def found(core: str, rows: int) -> set[str]:
        return {
            f"{one.system} {one.bits} {one.feature}"
            for library in peers.LIBRARIES
            for one in library.kernels
            if one.runs(targets.get(core), rows)
        }

    assert found("cortex-a72", 1) == {f"torchao {bits} neon" for bits in range(1, 5)}
    assert "KleidiAI 2 dotprod" in found("cortex-a55", 4)
    assert not any("i8mm" in one for one in found("cortex-a76", 16) | found("cortex-a510", 1))
    assert "KleidiAI 4 i8mm" in found("cortex-a510", 16)


def test_missing_sources_are_named(tmp_path: Path):
    library = peers.LIBRARIES[0]
    with pytest.raises(Error, match="has no folder ao: put torchao's sources there"):
        library.build(tmp_path, tmp_path / "peer.so")
    (tmp_path / "ao").mkdir()
    with pytest.raises(Error, match=r"compute_sum\.cpp is not there: torchao has changed"):
        library.build(tmp_path, tmp_path / "peer.so")


def test_one_of_our_kernels_at_a_bit_width_is_what_users_get():
    candidates = ours.candidates(targets.get("cortex-a76"), 1)
    found = list(takewhile(lambda one: one.activation == "int8", candidates))
    assert sorted(one.bits for one in found if one.chosen) == list(range(1, 9))
    assert [one.bits for one in found if one.name.startswith("dense")] == [8]
    assert len({one.label for one in found}) == len(found)


@pytest.fixture
def runner() -> list[str]:
    able, reason = tools.available()
    if not able:
        pytest.skip(reason)
    return cost.runner()


@pytest.mark.emulated
def test_a_kernel_is_checked_and_costs_at_least_its_dot_products(runner, tmp_path: Path):
    core = targets.get("cortex-a55")
    (candidate, *_) = ours.candidates(core, 1)
    call = candidate.prepare(tmp_path)
    found = cost.cost(call, core)
    least = WEIGHTS / 16  # of SDOT, and half as many loads of pairs
    assert 1.5 * least < found.instructions < 3 * least
    assert least < found.cycles < found.streaming
    with pytest.raises(Error, match="all wrong"):
        cost.cost(replace(call, wrong=lambda y: "all wrong"), core)


@pytest.mark.emulated
def test_a_peer_multiplies_right_and_is_counted(runner, tmp_path: Path):
    folder = os.environ.get("GQ_TVM_PEERS")
    if not folder:
        pytest.skip("no sources of torchao and KleidiAI: name their folder in GQ_TVM_PEERS")
    (library,) = (one for one in peers.LIBRARIES if one.feature == "i8mm")
    path, core = tmp_path / "peer.so", targets.get("cortex-a510")
    library.build(Path(folder), path)
    for candidate in peers.candidates(core, 4, {library: path}, runner):
        found = cost.cost(candidate.prepare(tmp_path), core)
        assert 0.05 < found.instructions / (4 * WEIGHTS) < 0.1
