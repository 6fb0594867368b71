"""The accuracy table: its cells, its statistics and its report, without training anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks.accuracy import after_training, recipe, report, work
from benchmarks.accuracy import cell as training
from benchmarks.accuracy.cells import NETWORKS, ROWS, Cell, cells, cells_after_training
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.statistics import Errors
from benchmarks.machine import circumstances
from gq_tvm import quantize
from gq_tvm.models.networks.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.networks.network import NetworkSettings, build
from gq_tvm.models.networks.rnnt import RNNTSettings
from gq_tvm.models.training.trainer import Schedule
from gq_tvm.speech import audio, word_error_rate

TEXTS = ["one two", "three", "four five six", "seven"]


def test_rates_are_those_of_all_words_together():
    heard = [["one", "three", "four five six seven", ""], TEXTS]
    errors = Errors.count(TEXTS, heard)
    assert errors.rates == pytest.approx([word_error_rate(TEXTS, heard[0]), 0.0])
    assert errors.rate == pytest.approx(100 * 1.5 / 7)
    low, high = errors.interval()
    assert low < errors.rate < high


def test_resamples_are_paired():
    rng = np.random.default_rng(0)
    words = np.full(200, 3)
    wrong = rng.integers(0, 2, (1, 200))
    double = Errors(2 * wrong, words)
    ratio, (low, high) = double.relative_to(Errors(wrong, words))
    assert ratio == pytest.approx(2)
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)


def test_cells_have_names_of_their_own():
    names = [cell.name for cell in cells()]
    assert len(set(names)) == len(names)
    after = {cell for cell in cells_after_training() if cell.method in ("float", "compress")}
    assert not {cell.name for cell in after} & set(names)
    assert {"rnnt_fp32_fp32_seed3", "conformer_2-1_gq_mu-0_seed1"} <= set(names)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("row", ROWS)
def test_every_row_names_layers_that_are_there(network, row):
    model = training.prepared(Cell(network, row, "gq", 1), build(NETWORKS[network]))
    bits = {w.name: (w.bits, w.activation) for w in quantize.describe(model)}
    assert {n for n, _ in bits.values()} >= {8, ROWS[row].bits}
    assert not any(n == 32 for n, _ in bits.values())
    few = {name for name, (n, _) in bits.items() if n == 1}
    assert bool(few) is ("1" in row)
    rounded = {name for name, (_, kind) in bits.items() if kind == "int1"}
    assert rounded == (few if row == "1-int1" else set())


def test_rounding_puts_the_outermost_level_at_the_largest_weight():
    torch.manual_seed(0)
    model = training.prepared(Cell("rnnt", "3", "rounding", 1), build(NETWORKS["rnnt"]))
    layer = cast(Any, model.encoder).projection
    weight = layer.hardened("weight")
    levels = weight.codebook[0] * weight.scale
    assert levels.abs().max() == pytest.approx(float(layer.weight.detach().abs().max()), rel=1e-6)
    values = levels[weight.indices.long()]
    step = levels.diff().max()
    assert (values - layer.weight).abs().max() <= step * 1.01


@pytest.fixture
def data(tmp_path) -> Data:
    folder = tmp_path / "recordings"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for speaker in ("jackson", "nicolas", "lucas", "yweweler", "george"):
        for digit in range(2):
            samples = rng.normal(0, 0.1, 2400).astype(np.float32)
            audio.write(folder / f"{digit}_{speaker}_0.wav", samples, 8000)
    return Data(folder, tmp_path / "work")


def test_stored_batches_are_the_drawn_ones(data, monkeypatch):
    monkeypatch.setattr("benchmarks.accuracy.data.Data.recipe", recipe.DigitRecipe(voices=0))
    stored, drawn = data.stored(3, 2), data.batches(3)
    for step in range(2):
        assert torch.equal(stored.draw(step).features, drawn.draw(step).features)
        assert torch.equal(stored.draw(step).tokens, drawn.draw(step).tokens)


def result(data: Data, cell: Cell, wrong: int) -> None:
    """Write the result of a cell that heard so many recordings as silence."""
    heard = {}
    for role in work.ROLES:
        texts = [one.text for one in data.spoken(role)]
        heard[role] = [""] * wrong + texts[wrong:]
    path = work.result_file(data, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "bytes": 1000,
                "heard": heard,
                "training_cpu_seconds": 60.0,
                "circumstances": {"commit": "abc"},
            }
        )
    )


def test_the_report_is_made_of_the_result_files(data, tmp_path):
    for seed, wrong in ((1, 10), (2, 20), (3, 30)):
        result(data, Cell("rnnt", "fp32", "fp32", seed), wrong)
        result(data, Cell("rnnt", "2", "gq", seed), wrong)
        result(data, Cell("rnnt", "2", "lsq", seed), 2 * wrong)
        result(data, Cell("rnnt", "2-1", "gq", seed), 2 * wrong)
    result(data, Cell("conformer", "2-1", "gq", 1), 30)
    result(data, Cell("conformer", "2-1", "gq", 1, "mu-0"), 40)
    report.write(data, tmp_path / "docs", {"versions": {"torch": "0"}, "date": "today"})
    text = (tmp_path / "docs" / "accuracy.md").read_text()
    goals = [line for line in text.splitlines() if "fp32's WER" in line or "LSQ |" in line]
    assert [line.split("|")[-2].strip() for line in goals if "2 bits, at most" in line] == [
        "met"
    ] * 2
    assert all("missed" in line for line in goals if "1 in recurrent" in line)
    assert "GQ better than LSQ" in text
    assert "mu = 0" in text
    figures = json.loads((tmp_path / "docs" / "accuracy.json").read_text())
    entry = next(one for one in figures["cells"] if one["method"] == "lsq" and one["row"] == "2")
    by_seed = entry["development"]["by_seed"]
    assert by_seed == sorted(by_seed)
    assert len(by_seed) == 3
    assert Path(work.result_file(data, Cell("rnnt", "fp32", "fp32", 1))).exists()


def test_what_compresses_without_training_has_a_page_of_its_own(data, tmp_path):
    result(data, Cell("rnnt", "fp32", "float", 1), 2)
    for row, wrong in (("2", 4), ("2-1", 10)):
        result(data, Cell("rnnt", row, "lloyd-max", 1), 10)
        result(data, Cell("rnnt", row, "compress", 1), wrong)
    after_training.write(data, tmp_path / "docs", {"versions": {"torch": "0"}, "date": "today"})
    text = (tmp_path / "docs" / "accuracy_after_training.md").read_text()
    goals = [line for line in text.splitlines() if "half of Lloyd-Max's" in line]
    met = ["met" in line for line in goals]
    assert met == [True, True, False, False]
    assert "Not measured yet" in text


@pytest.mark.training
def test_a_cell_from_float_weights_to_compiled_text(data, monkeypatch):
    small = NetworkSettings(
        LSTMEncoderSettings(size=16, layers=2),
        RNNTSettings(predictor_size=8, embedding_size=8, joint_size=12),
    )
    schedule = Schedule(steps=3, save_every=1)
    monkeypatch.setitem(NETWORKS, "rnnt", small)
    monkeypatch.setitem(training.BASE, "rnnt", (schedule, schedule))
    monkeypatch.setattr(training, "FINE", schedule)
    monkeypatch.setattr("benchmarks.accuracy.data.Data.recipe", recipe.DigitRecipe(voices=0))
    cell = Cell("rnnt", "2-1", "gq", 1)
    work.prepare_base(data, "rnnt")
    first = (data.folder / "rnnt-base-1.safetensors").read_bytes()
    assert work.train(data, cell).startswith(cell.name)
    assert "0 texts differ" in work.verify(data, cell)
    assert (data.folder / "rnnt-base-1.safetensors").read_bytes() == first

    monkeypatch.setattr(training, "CALIBRATION", 1)
    compressed = Cell("rnnt", "4", "compress", 1)
    assert work.train(data, compressed).startswith(compressed.name)
    sizes = [json.loads(work.result_file(data, c).read_text())["bytes"] for c in (compressed, cell)]
    assert sizes[0] > sizes[1]

    # Made once; with other settings made anew, and compared anew.
    assert work.train(data, cell) == ""
    assert work.verify(data, cell) == ""
    monkeypatch.setattr(training, "FINE", replace(schedule, learning_rate=1e-4))
    assert work.train(data, cell) != ""
    assert work.verify(data, cell) != ""
    report.write(data, data.folder / "docs", circumstances())
    text = (data.folder / "docs" / "accuracy.md").read_text()
    assert "1 trained recognisers were exported" in text
