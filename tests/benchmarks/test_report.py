from __future__ import annotations

import pytest

from benchmarks.goals import ENCODER, OURS
from benchmarks.report import holding, render
from benchmarks.results import Results, key
from gq_tvm.errors import Error

from helpers.benchmark_figures import layer, model, results, row  # isort: skip


@pytest.fixture
def have() -> Results:
    rows = [
        row(OURS, "4 bit", 4, 20, 90, 2 << 20),
        row("LiteRT", "int4", 4, 25, 80),
        row("LiteRT", "int8", 8, 40, 180),
    ]
    return results(layer(rows), layer(rows, threads=2), model(ENCODER, rows))


def test_page(have):
    page = render(have, "roofline.svg")
    assert "20.0 / 25.0 (LiteRT int4) | 0.80 | 1.00 | met | 90.0 / 80.0" in page
    assert "**missed**" in page  # the cold goal
    assert "21.0 (L3), -, 10.5" in page  # 2 MiB at 100 GB/s; no look-up ceiling; dot products
    assert "| reading from L2, GB/s | 200.0 |" in page
    assert "## Layers, 2 threads" in page
    assert f"### {ENCODER}, 1 thread" in page
    assert "| ggml | ggml cannot be built: no | 2 |" in page
    assert "](roofline.svg)" in page


def test_every_row_of_a_table_is_as_wide_as_its_head(have):
    width = None
    for line in render(have).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_a_page_without_figures():
    assert "nothing measured yet" in render(results())


@pytest.mark.parametrize(
    ("size", "level"), [(1000, "L1"), (10**6, "L2"), (2 * 10**6, "L3"), (10**8, "DRAM")]
)
def test_level_that_holds_the_weights(size, level):
    assert holding(results(), size) == level


def test_file_round_trip(have, tmp_path):
    path = tmp_path / "figures.json"
    have.save(path)
    again = Results.load(path)
    assert again.machine == have.machine
    assert again.ceilings == have.ceilings
    assert render(again) == render(have)


def test_a_later_measurement_replaces_the_earlier(have):
    before = len(have.figures)
    later = layer([row(OURS, "4 bit", 4, 1, 1)])
    have.add(later)
    assert len(have.figures) == before
    assert have.figures[key(later.problem)] is later


def test_files_merge(have):
    later = layer([row(OURS, "4 bit", 4, 1, 1)])
    have.merge(results(later))
    assert have.figures[key(later.problem)] is later
    assert len(have.figures) == 3


def test_another_machines_file_does_not_merge(have):
    other = results()
    other.machine["cpu"] = "Another CPU"
    with pytest.raises(Error, match="Another CPU"):
        have.merge(other)


@pytest.mark.parametrize("text", ["", "{}", '{"format": "gq-tvm benchmarks", "version": 0}', "[]"])
def test_a_file_of_something_else(tmp_path, text):
    path = tmp_path / "figures.json"
    path.write_text(text)
    with pytest.raises(Error, match="name another file with --out"):
        Results.load(path)
