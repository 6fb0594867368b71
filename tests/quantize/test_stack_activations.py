"""Layers whose rows are rounded differently, in one LSTM or GRU too, to the artefact."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gq_tvm
import gq_tvm.quantize

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way
RECURRENT: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU}


def stack(kind: str) -> Any:
    torch.manual_seed(0)
    return RECURRENT[kind](6, 5, 3, batch_first=True)


def mixed() -> dict[str, str]:
    return {"weight_*": "int8", "weight_*_l0": "fp32", "weight_*_l1": "int1"}


def alone(model: nn.RNNBase, number: int, activation: str) -> Any:
    """One layer of a stack, compressed."""
    width = model.input_size if number == 0 else model.hidden_size
    kind: Any = type(model)
    layer = kind(width, model.hidden_size, batch_first=True)
    own = {n: v for n, v in model.state_dict().items() if n.endswith(f"_l{number}")}
    layer.load_state_dict({f"{n.rpartition('_')[0]}_l0": v for n, v in own.items()})
    return quantize.compress(layer, 4, activation=activation)


@pytest.mark.parametrize("kind", RECURRENT)
def test_each_layer_computes_as_it_would_alone(kind):
    model = stack(kind)
    small = quantize.compress(model, 4, activation=mixed())
    x = torch.randn(2, 7, 6)
    wanted = x
    for number, activation in enumerate(("fp32", "int1", "int8")):
        wanted, _ = alone(model, number, activation)(wanted)
    for one in (small, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        torch.testing.assert_close(one(x)[0], wanted, atol=1e-6, rtol=0)
    kinds = [w.activation for w in quantize.describe(small)]
    assert kinds == ["fp32"] * 2 + ["int1"] * 2 + ["int8"] * 2
    assert "'weight_ih_l1': 'int1'" in repr(small)


@pytest.mark.parametrize("kind", RECURRENT)
def test_it_trains_and_evaluates_as_it_is_deployed(kind):
    prepared = quantize.prepare(stack(kind), 4, activation=mixed(), exact_state=True)
    x = torch.randn(2, 7, 6)
    trained, _ = prepared.train()(x)
    trained.square().mean().backward()
    assert all(p.grad is not None for p in prepared.parameters())
    deployed, _ = prepared.eval()(x)
    torch.testing.assert_close(trained, deployed, atol=1e-6, rtol=0)
    torch.testing.assert_close(quantize.convert(prepared)(x)[0], deployed, atol=1e-6, rtol=0)


@pytest.mark.export
@pytest.mark.parametrize("kind", RECURRENT)
def test_the_artefact_computes_the_same(kind, tmp_path):
    model = quantize.compress(nn.Sequential(stack(kind)), 2, activation={"*_l0": "fp32"})
    x = torch.randn(1, 8, 6)
    gq_tvm.build(torch.export.export(model, (x,)), target="native").save(tmp_path / "model.gq")
    net = gq_tvm.load(tmp_path / "model.gq")
    assert [one.activation for one in net.layers] == ["fp32"] * 2 + ["int8"] * 4
    y, *_ = net(x.numpy())
    torch.testing.assert_close(torch.as_tensor(y), model(x)[0], atol=1e-5, rtol=0)


class Offset(nn.Module):
    """Inputs that have much in common, which the weights before them take away; a layer behind."""

    layer: Any

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = {
            "linear": nn.Linear(16, 8),
            "lstm": nn.LSTM(16, 8, 2, batch_first=True),
            "gru": nn.GRU(16, 8, 2, batch_first=True),
        }[kind]
        weight = self.layer.weight if kind == "linear" else self.layer.weight_ih_l0
        weight.data -= weight.data.mean(1, keepdim=True)
        self.behind = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x + 300)
        return self.behind(y if isinstance(y, Tensor) else y[0])


@pytest.mark.parametrize("kind", ["linear", "lstm", "gru"])
def test_rows_stay_floats_where_int8_alone_costs_the_model_too_much(kind):
    model = Offset(kind)
    said: list[str] = []
    inputs = list(torch.randn(8, 40, 16).split(1))
    small = quantize.compress(model, 8, inputs=inputs, progress=said.append)
    found = {w.name: w.activation for w in quantize.describe(small)}
    first = {"layer.weight"} if kind == "linear" else {"layer.weight_ih_l0", "layer.weight_hh_l0"}
    assert {name for name, activation in found.items() if activation == "fp32"} == first
    assert any(max(first) in line and "activations stay fp32" in line for line in said)
    assert not any("input_scale" in name for name in small.state_dict())
    asked = quantize.compress(
        model, 8, activation={"*": "int8"}, inputs=inputs, tune=0, progress=None
    )
    assert {w.activation for w in quantize.describe(asked)} == {"int8"}
    x = torch.randn(4, 40, 16)
    lost, more = (quantize.losses(model, one, [x]).outputs[0].lost for one in (small, asked))
    assert lost < 0.1 * more
