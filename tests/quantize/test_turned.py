"""Layers whose weight lies the other way round: transformers' Conv1D."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import gq_tvm.quantize
from gq_tvm.quantize.allocation.weights import FloatWeights

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


class Conv1D(nn.Module):
    """As transformers has it: f32 [..., nx] -> f32 [..., nf]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.1)
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        shape = (*x.shape[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


Conv1D.__module__ = "transformers.pytorch_utils"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = Conv1D(48, 16)
        self.second = Conv1D(16, 48)

    def forward(self, x):
        return x + self.second(self.first(x).relu())


@pytest.fixture
def block() -> nn.Module:
    return Block().eval()


X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def test_it_is_compressed_as_the_linear_layer_it_is(block):
    before = {name: value.clone() for name, value in block.state_dict().items()}
    with pytest.warns(UserWarning, match=r"become plain ones.*first.weight \(Conv1D's layout\)"):
        small = quantize.compress(block, 8, None, "fp32", inputs=[X], progress=None)
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name])
    assert type(block.first) is Conv1D
    names = [(w.name, w.bits, w.shape) for w in quantize.describe(small)]
    assert names == [("first.weight", 8, (48, 16)), ("second.weight", 8, (16, 48))]
    assert quantize.losses(block, small, [X]).outputs[0].lost < 1e-4
    torch.testing.assert_close(small.first.weight, block.first.weight.T, atol=0.01, rtol=0)


def test_it_trains(block):
    prepared = quantize.prepare(copy.deepcopy(block), 4)
    prepared.train()(X).square().sum().backward()
    assert prepared.first.weight.grad.shape == (48, 16)
    converted = quantize.convert(prepared.eval())
    assert isinstance(converted.first, nn.Linear)
    assert converted(X).shape == X.shape


@pytest.mark.filterwarnings("ignore:weights that are computed")
def test_its_sensitivity_is_that_of_the_linear_layer(block):
    twin = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 16))
    twin[0].weight.data, twin[0].bias.data = block.first.weight.data.T, block.first.bias.data
    twin[2].weight.data, twin[2].bias.data = block.second.weight.data.T, block.second.bias.data
    found, wanted = (
        quantize.sensitivity(one, [X], (2, 4), "fp32", progress=None)
        for one in (nn.Sequential(block.first, nn.ReLU(), block.second), twin)
    )
    for name, one in wanted.weights.items():
        assert found.weights[name].bytes == one.bytes
        for bits, lost in one.lost.items():
            assert found.weights[name].lost[bits] == pytest.approx(lost, rel=1e-3)


def test_left_in_float_it_stays_what_it_is(block):
    small = quantize.compress(block, 8, {"first": None}, "fp32", progress=None)
    assert type(small.first) is Conv1D
    assert torch.equal(small.first.weight, block.first.weight)


def test_the_float_model_computes_the_same_with_the_weight_turned(block):
    torch.testing.assert_close(FloatWeights(block, "sensitivity").model(X), block(X))
