"""What each weight loses alone, and bits allocated from that."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import tomllib
from typing import Any, cast

import pytest
import torch
from torch import nn

import gq_tvm.quantize
from gq_tvm.errors import Error
from gq_tvm.ops.torch_weight import expand
from gq_tvm.quantize.allocation import measuring
from gq_tvm.quantize.allocation.sensitivity import OneWeight, Sensitivity
from gq_tvm.quantize.fitting import Form, fit

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


class Small(nn.Module):
    """Every way to hold weights: a shared one, a pair of an LSTM, a weight norm, a padding row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.output = nn.Linear(8, 9, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids, state=None):
        x, state = self.lstm(self.embedding(ids), state)
        return {"logits": self.output(self.normed(x).tanh()), "state": state}


IDS = torch.tensor([[0, 3, 1, 4], [5, 2, 8, 6]])


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return Small().eval()


@pytest.fixture(scope="module")
def measured(small) -> Sensitivity:
    return quantize.sensitivity(small, [IDS[:1], (IDS[1:],)], (2, 4), progress=None)


def test_a_weight_is_quantised_alone(small, measured, monkeypatch):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    name, coded = "lstm.weight_hh_l0", []

    def fitted(rows, form, moments, counts):
        found = fit(rows, form, moments, counts)
        if torch.equal(rows, before[name]):
            assert form == Form(2, True, "row", None)  # of 8 inputs
            assert moments is not None
            coded.append(found.weight)
        return found

    monkeypatch.setattr(measuring, "fit", fitted)
    again = quantize.sensitivity(small, [IDS[:1], (IDS[1:],)], (2,), progress=None)
    assert again.weights[name].lost[2] == measured.weights[name].lost[2]
    other: Any = Small().eval()
    with torch.no_grad():
        floats = [small(one) for one in (IDS[:1], IDS[1:])]
        other.lstm.weight_hh_l0.copy_(expand(coded[0]))
        now = [other(one) for one in (IDS[:1], IDS[1:])]
    shares = []
    for read in (
        lambda y: y["logits"], lambda y: y["state"][0], lambda y: y["state"][1]
    ):  # fmt: skip
        noise = sum((read(a) - read(b)).square().sum() for a, b in zip(floats, now, strict=True))
        shares.append(float(noise / sum(read(a).square().sum() for a in floats)))
    assert measured.weights[name].lost[2] == pytest.approx(sum(shares) / 3, rel=1e-4)
    assert all(one.lost[4] < one.lost[2] for one in measured.weights.values())
    assert list(measured.weights) == sorted(
        measured.weights, key=lambda name: measured.weights[name].mean
    )
    assert measured.weights.keys() == {
        "embedding.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "normed.weight",
    }  # fmt: skip
    for key, value in small.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert "lstm.weight_hh_l0" in str(measured)
    assert measured.weights[name].layer == measured.weights["lstm.weight_ih_l0"].layer


def test_a_function_feeds_its_state_back(small):
    def run(model: nn.Module) -> None:
        state = None
        for ids in IDS.T:
            state = model(ids[:, None], state)["state"]

    found = quantize.sensitivity(small, run, (3,), "fp32", scales="row", progress=None)
    assert found.choices == [3]
    assert all(0 < one.lost[3] < 1 for one in found.weights.values())


def test_it_is_read_as_it_was_written(measured, tmp_path):
    measured.save(tmp_path / "a.json")
    assert Sensitivity.load(tmp_path / "a.json") == measured
    good = json.loads(measured.to_json())
    for change, words in (
        ({"format": "x"}, "format is not"),
        ({"fixed": "x"}, "fixed is"),
        (
            {"weights": {"a": {"shape": [1], "layer": "a", "bytes": {"9": 1}, "lost": {}}}},
            "no bits",
        ),
        (
            {"weights": {"a": {"shape": [1], "layer": "a", "bytes": {}, "lost": {"2": 1}}}},
            "bits of",
        ),
    ):
        (tmp_path / "b.json").write_text(json.dumps(good | change))
        with pytest.raises(Error, match=rf"b.json: it is no sensitivity .*{words}"):
            Sensitivity.load(tmp_path / "b.json")
    with pytest.raises(Error, match="no such file"):
        Sensitivity.load(tmp_path / "c.json")


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_keeps_what_was_measured(small):
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("5/8"):  # in the middle of the third weight
            signal.raise_signal(signal.SIGINT)

    found = quantize.sensitivity(small, [IDS], (2, 4), progress=say)
    assert "embedding.weight" in found.weights
    # The third is the second of an LSTM's layer, which goes together.
    assert found.unmeasured == ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "normed.weight"]
    assert found.interrupted
    assert "interrupted: 3 weights" in str(found)
    assert any("stopping" in line for line in lines)
    assert any(line.endswith(" left") for line in lines)
    assert sum(1 for _ in quantize.allocate(found, 10**6)) == 1


def test_what_no_input_reaches_is_not_measured(small):
    def run(model: nn.Module) -> None:
        cast(Small, model).normed(torch.ones(1, 8))  # past the model
        model(IDS)

    small.spare = nn.Linear(3, 2)
    try:
        with pytest.warns(UserWarning, match=r"no input reaches spare\.weight; not measured"):
            found = quantize.sensitivity(small, run, (8,), progress=None)
    finally:
        del small.spare
    assert found.unmeasured == ["spare.weight"]
    assert not found.interrupted
    assert "1 weights were not measured and count as float" in str(found)
    assert "spare.weight" not in quantize.allocate(found, sqnr=0)


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ([IDS], {"choices": (9,)}, "choices must be bits from 1 to 8"),
        ([IDS], {"choices": 4}, "choices must be bits"),
        ([IDS], {"activation": {"lost": "int8"}}, "^sensitivity: pattern 'lost' matches no weight"),
        ([IDS], {"scales": 7}, "^sensitivity: scales must be"),
        ([], {}, "hold no example"),
        (lambda model: None, {}, "is not called by the function"),
        ([IDS.float()], {}, "does not fit the model"),
    ],
)
def test_it_refuses_in_a_sentence(small, inputs, options, words):
    with pytest.raises(Error, match=words):
        quantize.sensitivity(small, inputs, progress=None, **options)


def test_a_model_of_no_finite_output_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(Error, match="gives NaN or infinity in its output"):
        quantize.sensitivity(model, [torch.full((1, 2), float("inf"))], progress=None)


def test_a_picture_is_drawn(measured, tmp_path, monkeypatch):
    with pytest.raises(Error, match="a picture ends in"):
        measured.picture(tmp_path / "a.txt")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Error, match=r"this needs matplotlib.*gq-tvm\[picture\]"):
        measured.picture(tmp_path / "a.svg")
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        measured.picture(tmp_path / name)
    assert (tmp_path / "a.svg").read_text() == (tmp_path / "b.svg").read_text()
    assert "lstm.weight_hh_l0" in (tmp_path / "a.svg").read_text()


def made() -> Sensitivity:
    """Figures of three weights, two of which are a layer of an LSTM."""
    sizes = [{2: 20, 4: 40, 32: 320}, {2: 10, 4: 20, 32: 160}, {2: 9, 4: 17, 32: 128}]
    lost = [{2: 0.5, 4: 0.1}, {2: 0.02, 4: 0.01}, {2: 0.3, 4: 0.25}]
    layers = {"a.ih": "a.0", "a.hh": "a.0", "b": "b"}
    weights = {
        name: OneWeight((1,), layer, sizes[n], lost[n])
        for n, (name, layer) in enumerate(layers.items())
    }
    return Sensitivity(weights, 7)


def every() -> list[tuple[int, float, dict[str, int]]]:
    """Bytes, loss and bits of all allocations there are."""
    weights = made().weights
    found = []
    for bits in itertools.product((2, 4, 32), repeat=3):
        own = dict(zip(weights, bits, strict=True))
        if (own["a.ih"] == 32) == (own["a.hh"] == 32):
            size = 7 + sum(one.bytes[own[name]] for name, one in weights.items())
            lost = sum(one.lost.get(own[name], 0.0) for name, one in weights.items())
            found.append((size, lost, own))
    return found


@pytest.mark.parametrize("budget", [46, 60, 84, 170, 300, 500, 10**6])
def test_a_budget_is_met_at_least_loss(budget):
    found = quantize.allocate(made(), budget)
    fitting = [one for one in every() if one[0] <= budget]
    assert found.bytes <= budget
    assert found.lost == pytest.approx(min(lost for _, lost, _ in fitting))
    assert (found.bytes, dict(found)) in [(size, bits) for size, _, bits in every()]


@pytest.mark.parametrize("sqnr", [-5, 1, 5, 10, 15, 100])
def test_an_sqnr_is_reached_with_fewest_bytes(sqnr):
    found = quantize.allocate(made(), sqnr=sqnr)
    assert found.sqnr >= sqnr
    assert found.bytes == min(size for size, lost, _ in every() if lost <= 10 ** (-sqnr / 10))


def test_an_allocation_is_overrides(small, measured):
    found = quantize.allocate(measured, sqnr=25.0)
    table = tomllib.loads(found.toml())["quantise"]["overrides"]
    assert table == found
    assert f"{found.bytes} bytes of" in str(found)
    bits = {w.name: w.bits for w in quantize.describe(quantize.compress(small, None, found))}
    assert {name: bits[name] for name in found} == found
    floats = quantize.allocate(measured, sqnr=1000.0)
    assert set(floats.values()) == {32}
    whole = sum(4 * p.numel() for p in small.parameters())
    # a weight norm's magnitudes are no weight of the deployed model
    assert floats.bytes == whole - 4 * small.normed.parametrizations.weight.original0.numel()


def test_a_metric_says_what_is_good_enough(small, measured):
    floats = small(IDS)["logits"].detach()
    seen: list[float] = []

    def error(model: nn.Module) -> float:
        seen.append(float((model(IDS)["logits"] - floats).detach().norm() / floats.norm()))
        return seen[-1]

    found = quantize.allocate(
        measured, metric=error, model=small, tolerance=0.2, trials=9, progress=None
    )
    assert len(seen) <= 10
    assert found.metric <= 0.2
    assert found.float_metric == 0
    assert found.bytes < quantize.allocate(measured, sqnr=1000.0).bytes
    again = quantize.allocate(
        measured, metric=lambda model: -error(model), model=small, tolerance=0.2, trials=9,
        higher_is_better=True, progress=None,
    )  # fmt: skip
    assert again == found
    none = quantize.allocate(measured, metric=error, model=small, trials=9, progress=None)
    assert set(none.values()) == {32}
    assert none.metric == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give one of budget, sqnr and metric, got none"),
        ({"budget": 9, "sqnr": 1}, "got budget and sqnr"),
        ({"budget": 45}, "45 bytes cannot be met: .* need 46, of which 7 stay"),
        ({"budget": "9"}, "budget must be a whole number"),
        ({"metric": float}, "needs the float model too"),
        ({"metric": lambda model: None, "model": nn.Linear(2, 2)}, "must give a number, got None"),
        ({"metric": float, "model": nn.Linear(2, 2), "trials": 0}, "trials 1 or more"),
    ],
)
def test_allocate_refuses_in_a_sentence(options, words):
    with pytest.raises(Error, match=words):
        quantize.allocate(made(), progress=None, **options)


class UnlikeInputs(nn.Module):
    """Inputs of unlike size, which are multiplied by factors in front of a layer of int8 rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sizes = torch.logspace(0, -4, 16)
        self.layer = nn.Linear(16, 8)
        self.layer.weight.data /= self.sizes

    def forward(self, x):
        return self.layer(x * self.sizes)


def test_factors_in_front_of_inputs_are_no_loss_of_the_weight():
    model, x = UnlikeInputs().eval(), torch.randn(100, 16)
    small = quantize.compress(model, 8, inputs=[x], progress=None)
    assert hasattr(small.layer, "input_scale")
    for activation in ("fp32", "int8"):
        found = quantize.sensitivity(model, [x], (8,), activation, progress=None)
        assert found.weights["layer.weight"].lost[8] < 1e-3
