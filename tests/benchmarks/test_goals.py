from __future__ import annotations

import pytest

from benchmarks import goals
from benchmarks.goals import CONFORMER, ENCODER, OURS, PREDICTOR, Ratio

from helpers.benchmark_figures import layer, model, results, row  # isort: skip


def test_best_peer_hot_and_cold_apart():
    figures = layer(
        [
            row(OURS, "4 bit", 4, 20, 90),
            row(OURS, "4 bit table", 4, 1, 1),  # by name: no user gets it unasked
            row("A", "int4", 4, 25, 80),
            row("B", "int4", 4, 40, 100),
            row("B", "int2", 2, 1, 1),
        ]
    )
    goal = Ratio(4, 4, 0.8, 1.0, rows=1)
    (one,) = goals.compare(results(figures), goal)
    assert (one.hot.against, one.hot.ratio, one.hot.met) == ("A int4", 0.8, True)
    assert (one.cold.against, one.cold.ratio, one.cold.met) == ("A int4", 1.125, False)


def test_a_named_peer_and_other_rows():
    one_row = layer([row(OURS, "3 bit", 3, 10, 20), row("A", "int4", 4, 5, 5)])
    four = layer([row(OURS, "3 bit", 3, 10, 20), row("A", "int4", 4, 5, 5)], count=4)
    have = results(one_row, four)
    named = Ratio(3, 4, 0.85, 0.8, rows=1, peer="LiteRT int4")
    assert list(goals.compare(have, named)) == []
    (found,) = goals.compare(have, Ratio(3, 4, 0.85, None, rows=1))
    assert found.hot.met is False
    assert found.cold.met is None


def test_models_have_goals_of_their_own():
    figures = model(CONFORMER, [row(OURS, "4 bit", 4, 80, 1), row("A", "int4", 4, 100, 1)])
    met = [one.hot.met for goal in goals.RATIOS for one in goals.compare(results(figures), goal)]
    assert met == [True]


def test_recogniser_adds_its_models_up():
    rows = [row(OURS, "mixed 3/2 bit", 2.5, 30, 1, 300), row("A", "int8", 8, 100, 1, 900)]
    latency, memory, *_ = goals.others(results(model(ENCODER, rows), model(PREDICTOR, rows)))
    assert latency.met
    assert "30%" in latency.value
    assert memory.met


@pytest.mark.parametrize(("two_threads", "met"), [(50, True), (70, False)])
def test_threads(two_threads, met):
    have = results(
        layer([row(OURS, "4 bit", 4, 100, 1)]),
        layer([row(OURS, "4 bit", 4, two_threads, 1)], threads=2),
        layer([row(OURS, "4 bit", 4, 1, 1)], shape=(512, 512)),
        layer([row(OURS, "4 bit", 4, 1, 1)], threads=2, shape=(512, 512)),
    )
    (found,) = (one for one in goals.others(have) if one.name.startswith("two threads"))
    assert found.met is met


def test_overhead_is_taken_where_the_kernel_is_smallest():
    have = results(
        layer([row(OURS, "4 bit kernel alone", 4, 100, 1), row(OURS, "4 bit net(x)", 4, 120, 1)]),
        layer(
            [row(OURS, "4 bit kernel alone", 4, 2, 1), row(OURS, "4 bit net(x)", 4, 6, 1)],
            shape=(64, 64),
        ),
    )
    (found,) = (one for one in goals.others(have) if "net(x)" in one.name)
    assert found.met
    assert found.value.startswith("4.0 us")


def test_binary_share_of_the_ceiling():
    # 2 x 4096 x 1024 operations at 4000 G/s are 2.1 us.
    have = results(layer([row(OURS, "1 bit x int1", 1, 4.0, 1)]))
    (found,) = (one for one in goals.others(have) if "popcount" in one.name)
    assert found.met
    assert found.value.startswith("52%")


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert {one.met for one in goals.others(results())} == {None}


@pytest.mark.parametrize(("grouped", "met"), [(49, True), (51, False)])
def test_scales_of_groups(grouped, met):
    rows = [
        row(OURS, "4 bit kernel alone", 4, 40, 1),
        row(OURS, "4 bit in groups of 32 kernel alone", 4, grouped, 1),
    ]
    (found,) = (one for one in goals.others(results(layer(rows))) if "groups" in one.name)
    assert found.met is met
