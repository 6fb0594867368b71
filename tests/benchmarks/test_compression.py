"""The compression table: bytes, what is resumed, and its report; no package, no download."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.compression import layers, report, work
from benchmarks.compression.cells import (
    METHODS,
    OURS,
    OURS_ALLOCATED,
    OURS_INPUTS,
    Cell,
    cells,
)
from benchmarks.compression.goals import goals
from benchmarks.compression.models import MODELS, Folders
from benchmarks.compression.models.model import Floats, Model, noise_share
from benchmarks.compression.models.resemblyzer import equal_error_rate
from benchmarks.compression.results import Results, geometric_mean, loss_at
from benchmarks.compression.rivals import exchange
from benchmarks.compression.rivals.rounding import rounded
from benchmarks.machine import circumstances


class Tiny(Model):
    """A network of two layers, one of which stays in float."""

    name = "tiny"
    title = "Tiny"
    measured: ClassVar = {"agreement": "share of equal signs"}
    left: ClassVar = {"1": None}
    given = True

    def load(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(40, 6), nn.Linear(6, 3)).eval()

    def calibrate(self, net: nn.Module) -> None:
        net(_inputs(1))

    def outputs(self, net: nn.Module) -> Floats:
        with torch.no_grad():
            return net(_inputs(2)).numpy()

    def measures(self, net: nn.Module, outputs: Floats, floats: Floats) -> dict[str, Any]:
        return {"agreement": float((np.sign(outputs) == np.sign(floats)).mean())}


def _inputs(seed: int) -> torch.Tensor:
    return torch.randn(50, 40, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    work._network.cache_clear()
    return work.Setting(Folders(None, tmp_path / "work"))


@pytest.mark.parametrize(
    ("bits", "group", "zero_bits", "expected"),
    [
        (4, None, 0, 6 * 40 * 4 / 8 + 6 * 2),
        (4, 32, 0, 6 * 40 * 4 / 8 + 6 * 2 * 2),  # the last group of a row is short
        (3, 32, 8, 6 * 40 * 3 / 8 + 6 * 2 * 3),
    ],
)
def test_bytes_count_indices_scales_and_zero_points(bits, group, zero_bits, expected):
    assert exchange.grouped_bytes((6, 40), bits, group, zero_bits=zero_bits) == expected


@pytest.mark.parametrize("variant", ["4", "4g32"])
def test_rounding_keeps_to_the_levels_it_counts(variant):
    weight = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    got = rounded(exchange.Layer("a", weight, weight), variant)
    assert got.weight.shape == weight.shape
    assert all(len(np.unique(row[:32])) <= 16 for row in got.weight)
    assert noise_share(got.weight, weight) < 0.02
    assert got.bytes == 120 + (24 if "g" in variant else 12)


def test_layers_meet_the_inputs_of_the_calibration_half(setting):
    model = Tiny(setting.folders)
    (layer,) = layers.layers(model, model.load())
    assert layer.name == "0.weight"
    np.testing.assert_array_equal(layer.samples, _inputs(1).numpy())


def test_inputs_of_a_recurrent_layer_are_its_states():
    net = nn.LSTM(3, 5, batch_first=True)
    x = torch.randn(2, 4, 3)
    with layers._watched(net) as met, torch.no_grad():
        y, _ = net(x)
    torch.testing.assert_close(met[".weight_ih_l0"][0], x.reshape(-1, 3))
    states = torch.cat([torch.zeros(2, 1, 5), y[:, :-1]], 1)
    torch.testing.assert_close(met[".weight_hh_l0"][0], states.reshape(-1, 5))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
        (nn.Conv2d(3, 5, (2, 4), stride=(2, 4), padding=(1, 0)), (2, 3, 8, 12)),
    ],
)
def test_inputs_of_a_convolution_are_what_each_output_reads(net: Any, shape: tuple[int, ...]):
    with layers._watched(net) as met, torch.no_grad():
        y = net(torch.randn(shape)).flatten(2).transpose(1, 2)
    got = met[".weight"][0] @ net.weight.detach().flatten(1).T + net.bias.detach()
    torch.testing.assert_close(got, y.reshape(len(got), -1))


@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_rounded_weights_stand_in_the_same_network(setting, activation):
    model = Tiny(setting.folders)
    net = model.load()
    (layer,) = layers.layers(model, net)
    exact = {layer.name: exchange.Rounded(layer.weight, 0)}
    changed = model.outputs(layers.rebuilt(model, net, exact, activation))
    loss = noise_share(changed, model.outputs(net))
    assert loss == 0 if activation == "fp32" else 0 < loss < 1e-3


def test_cells_have_names_of_their_own():
    names = [cell.name for cell in cells(tuple(MODELS))]
    assert len(set(names)) == len(names)
    assert "resemblyzer_gq-tvm-inputs_4_int8" in names
    assert sum(cell.compiled for cell in cells(("silero",))) == 4


def test_a_cell_is_measured_once(setting):
    cell = Cell("tiny", "rounding-groups", "4g32", "fp32")
    work.prepare(setting, "tiny")
    assert "rounding" in work.round_rivals(setting, ("tiny", "rounding"))
    assert work.round_rivals(setting, ("tiny", "rounding")) == ""
    assert "loss" in work.measure(setting, cell)
    assert work.measure(setting, cell) == ""
    path = work.result_file(setting.folders, cell)
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "fingerprint": "of other code"}))
    assert "loss" in work.measure(setting, cell)


def test_a_rival_that_is_not_there_is_left_out_with_a_line(setting, monkeypatch):
    cell = Cell("tiny", "ggml", "Q4_K", "fp32")
    work.prepare(setting, "tiny")
    path = work.rounded_file(setting, "tiny", "ggml", "Q4_K")
    path.parent.mkdir(parents=True)
    path.with_name(f"{path.name}.txt").write_text("the package gguf is not installed\n")
    assert "gguf is not installed" in work.measure(setting, cell)
    absent = Results(setting.folders).absent
    assert absent == {"ggml, Q4_K": "the package gguf is not installed"}


@pytest.mark.parametrize("method", [OURS, OURS_INPUTS])
def test_our_bytes_are_those_described(setting, method):
    work.prepare(setting, "tiny")
    cell = Cell("tiny", method, "4", "fp32")
    work.measure(setting, cell)
    kept = json.loads(work.result_file(setting.folders, cell).read_text())
    # Indices, a 16-bit scale for each group of 32, a table; the second layer stays in float.
    assert kept["bytes"] == {"0.weight": 6 * 40 // 2 + 6 * 2 * 2 + 4 * 16}


def test_allocated_bits_keep_to_the_bytes_of_a_row_and_leave_nothing_in_float(setting, monkeypatch):
    work.prepare(setting, "tiny")
    # Tables weigh more in a layer of 240 numbers.
    monkeypatch.setattr(work, "_OVERHEAD", 3.0)
    cells = [Cell("tiny", OURS_ALLOCATED, bits, "fp32") for bits in ("4", "3")]
    for cell in cells:
        work.measure(setting, cell)
    kept = [json.loads(work.result_file(setting.folders, cell).read_text()) for cell in cells]
    # One for 32 inputs that share a scale, one for 64.
    assert len(list((setting.folders.work / "sensitivities").iterdir())) == 2
    for one, bits in zip(kept, (4, 3), strict=True):
        assert list(one["bytes"]) == ["0.weight"]
        assert one["bytes"]["0.weight"] <= 6 * 40 * (bits + 3) / 8
    assert kept[0]["loss"] <= kept[1]["loss"]


def test_a_goal_is_met_by_either_way_to_choose_bits(setting, monkeypatch):
    work.prepare(setting, "tiny")
    bounds = {("tiny", "agreement"): ("least", {4: 0.9})}
    monkeypatch.setattr("benchmarks.compression.goals.BOUNDS", bounds)
    _write(setting, Cell("tiny", OURS_INPUTS, "4", "int8"), 4.5, 0.01, agreement=0.8)
    (goal, *_) = goals(Results(setting.folders))
    assert not goal.met
    _write(setting, Cell("tiny", OURS_ALLOCATED, "4", "int8"), 4.5, 0.01, agreement=0.95)
    (goal, *_) = goals(Results(setting.folders))
    assert goal.met
    assert "0.9500 at 4.50 bits a weight, bits allocated" in goal.figures


def test_report_compares_at_equal_bytes(setting, tmp_path):
    work.prepare(setting, "tiny")
    _write(setting, Cell("tiny", OURS_INPUTS, "4", "fp32"), 4.5, 0.01)
    _write(setting, Cell("tiny", "rounding-groups", "4g32", "fp32"), 4.5, 0.02)
    _write(setting, Cell("tiny", "torchao-hqq", "4-hqq", "fp32"), 5.0, 0.001)
    report.write(setting.folders, tmp_path, circumstances())
    text = (tmp_path / "compression.md").read_text()
    assert "**missed**" not in text
    assert "0.50: Tiny 0.50 (rounding, groups of 32)" in text
    assert json.loads((tmp_path / "compression.json").read_text())["cells"][0]["loss"] == 0.01


def test_more_bytes_than_a_row_allows_miss_the_goal(setting):
    work.prepare(setting, "tiny")
    _write(setting, Cell("tiny", OURS_INPUTS, "4", "fp32"), 4.7, 0.01)
    _write(setting, Cell("tiny", "rounding-groups", "4g32", "fp32"), 4.5, 0.02)
    (goal,) = [one for one in goals(Results(setting.folders)) if one.figures]
    assert not goal.met


def test_goals_without_cells_are_said_not_to_be_measured(setting, tmp_path):
    work.prepare(setting, "tiny")
    report.write(setting.folders, tmp_path, circumstances())
    text = (tmp_path / "compression.md").read_text()
    assert text.count("not measured") == len(list(goals(Results(setting.folders)))) > 0


def test_losses_between_two_forms_are_interpolated_by_their_logarithm():
    curve = [(3.5, 0.1), (4.5, 0.001)]
    assert loss_at(4.0, curve) == pytest.approx(0.01)
    assert loss_at(3.0, curve) is None
    assert loss_at(9.0, curve) == 0.001
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_equal_error_rate_of_separate_speakers_is_nothing():
    speakers = np.repeat([0, 1], 4)
    apart = np.eye(2, dtype=np.float32)[speakers]
    assert equal_error_rate(apart, speakers) == pytest.approx(0.0, abs=0.05)


def _write(
    setting: work.Setting, cell: Cell, rate: float, loss: float, agreement: float = 1.0
) -> None:
    assert METHODS[cell.method].bits[cell.variant] == cell.bits
    path = work.result_file(setting.folders, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        "bytes": {"0.weight": rate * 240 / 8},
        "loss": loss,
        "measures": {"agreement": agreement},
        "circumstances": circumstances(),
    }
    path.write_text(json.dumps(kept))
