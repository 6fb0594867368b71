"""Parts of a layer that are left in float: layers of an LSTM or GRU, projections of attention."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import gq_tvm.quantize
from gq_tvm.errors import Error

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way
RECURRENT: dict[str, Any] = {"lstm": nn.LSTM, "gru": nn.GRU}


def stack(kind: str, bias: bool = True) -> Any:
    torch.manual_seed(0)
    return RECURRENT[kind](6, 5, 3, bias=bias, batch_first=True)


def alone(model: nn.RNNBase, number: int) -> Any:
    """One layer of a stack."""
    width = model.input_size if number == 0 else model.hidden_size
    kind: Any = type(model)
    layer = kind(width, model.hidden_size, bias=model.bias, batch_first=True)
    own = {n: v for n, v in model.state_dict().items() if n.endswith(f"_l{number}")}
    layer.load_state_dict({f"{n.rpartition('_')[0]}_l0": v for n, v in own.items()})
    return layer


def assert_same(got, wanted) -> None:
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize(("bias", "activation"), [(True, "int8"), (False, "fp32")])
def test_a_layer_in_float_is_pytorchs(kind, bias, activation):
    model = stack(kind, bias)
    small = quantize.compress(model, 4, {"weight_*_l1": None}, activation)
    x = torch.randn(2, 7, 6)
    y, ends = x, []
    for number in range(3):
        layer = alone(model, number).eval()
        if number != 1:
            layer = quantize.compress(layer, 4, activation=activation)
        y, end = layer(y)
        ends.append(end)
    with torch.no_grad():
        got, state = small(x)
    assert_same(got, y)
    if kind == "lstm":
        assert_same(state, tuple(torch.cat(part) for part in zip(*ends, strict=True)))
    else:
        assert_same(state, torch.cat(ends))
    report = {w.name: (w.bits, w.remark) for w in quantize.describe(small)}
    for number, wanted in enumerate([(4, ""), (32, "left in float as asked"), (4, "")]):
        assert report[f"weight_ih_l{number}"] == report[f"weight_hh_l{number}"] == wanted
    assert "float_layers=[1]" in repr(small)


@pytest.mark.parametrize("kind", RECURRENT)
def test_it_keeps_its_parameters_and_trains(kind):
    model = stack(kind)
    before = copy.deepcopy(model.state_dict())
    small = quantize.compress(model, 4, {"weight_*_l0": 32})
    own = {name: value for name, value in before.items() if name.endswith("_l0")}
    assert dict(small.named_parameters()).keys() == own.keys()
    for one in (small, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        for name in own:
            assert_same(getattr(one, name).data, own[name])
            assert_same(one.state_dict()[name], own[name])
        assert one.weight_ih_l1.shape == before["weight_ih_l1"].shape
        assert one.bias_ih_l1.shape == before["bias_ih_l1"].shape
    other = quantize.compress(stack(kind), 4, {"weight_*_l1": 32})  # of the same class
    assert_same(small.weight_ih_l0.data, own["weight_ih_l0"])
    assert_same(other.weight_ih_l1.data, before["weight_ih_l1"])

    prepared = quantize.prepare(model, 4, {"weight_*_l0": 32}, exact_state=True)
    x = torch.randn(2, 7, 6)
    prepared.train()(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in prepared.parameters())
    assert_same(prepared.eval()(x)[0], quantize.convert(prepared)(x)[0].detach())


@pytest.mark.parametrize(
    ("left", "widths", "count"),
    [
        ("one.out_proj", {}, 1),
        ("one.out_proj", {"kdim": 6, "vdim": 4}, 1),
        ("one.in_proj_weight", {}, 3),
        ("one.[qk]_proj_weight", {"kdim": 6, "vdim": 4}, 2),
    ],
)
def test_projections_in_float(left, widths, count):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)
    model = nn.ModuleDict({"one": attention})
    given = [torch.randn(2, 5, n) for n in (8, *(widths.values() or (8, 8)))]
    if not widths:
        given = given[:1] * 3
    floats = copy.deepcopy(attention).eval()
    prepared = quantize.prepare(model, 3, {left: None}, activation="fp32")
    trained = prepared["one"](*given)[0]
    small = quantize.convert(prepared)["one"]
    bits = sorted(w.bits for w in quantize.describe(small))
    assert bits == [3] * (4 - count) + [32] * count
    with torch.no_grad():
        for name, parameter in floats.named_parameters():
            if name.endswith("weight"):
                holder = small.out_proj if name == "out_proj.weight" else small
                value = getattr(holder, "weight" if holder is not small else name)
                parameter.copy_(value)
        wanted = floats(*given)[0]
    torch.testing.assert_close(small(*given)[0], wanted)
    torch.testing.assert_close(trained, wanted)
    torch.testing.assert_close(prepared.eval()["one"](*given)[0], wanted)


def test_both_weights_of_a_layer_go_together():
    with pytest.raises(Error, match=r"weight_ih_l1 would stay in float beside weight_hh_l1 in .*"):
        quantize.compress(stack("lstm"), 4, {"weight_ih_l1": None})
