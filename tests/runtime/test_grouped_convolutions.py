"""Convolutions in groups with weights in codebooks: what is compiled computes what PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.codebook_models import compiled, relative_error
from torch import Tensor, nn

import gq_tvm.quantize
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.deployed.codebook_layers import CodebookConv1d

pytestmark = [pytest.mark.export, pytest.mark.native]
quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way
LENGTHS = (9, 20)
BOUND = 1e-5  # integer sums are exact


def weight(bits: int, scales: str, outliers: int = 0) -> WeightTensors:
    """[48, 5, 7], of three groups; extreme centroids, and scales of unlike size."""
    torch.manual_seed(bits)
    levels = 2**bits
    indices = torch.randint(0, levels, (48, 5, 7), dtype=torch.uint8)
    table = torch.linspace(-127, 127, levels).round()[None] / 127
    form = {"tensor": (1,), "row": (48,), "groups": (48, 3)}[scales]  # of 16 inputs
    scale = torch.rand(form) * torch.logspace(-2, 2, form[0]).view(-1, *[1] * (len(form) - 1))
    if not outliers:
        return WeightTensors(indices, table, scale, None, None, None)
    positions = torch.randperm(48 * 35)[:outliers].sort().values.int()
    values = torch.randn(outliers).half() * 100
    return WeightTensors(indices, table, scale, None, positions, values)


class Layers(nn.Module):
    """A convolution of three groups for each weight."""

    def __init__(self, weights: list[WeightTensors], activation: str) -> None:
        super().__init__()
        bias = torch.randn(48)
        self.layers = nn.ModuleList(
            CodebookConv1d(one, bias, activation, 2, 3, 1, 3) for one in weights
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x).relu() for layer in self.layers)


def same(model: nn.Module, activation: str, folder: Path) -> None:
    x = torch.randn(2, 15, LENGTHS[0])
    dynamic = ({2: torch.export.Dim("t", min=8, max=100)},)
    net = compiled(torch.export.export(model, (x,), dynamic_shapes=dynamic), folder)
    for length in LENGTHS:
        # Each group's rows have a scale of their own.
        x = torch.randn(2, 15, length) * torch.logspace(-3, 3, 15)[:, None]
        for got, wanted in zip(net(x), model(x), strict=True):
            assert got.shape == wanted.shape
            assert relative_error(got, wanted) <= BOUND


@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_all_bits_and_scales(activation: str, tmp_path: Path) -> None:
    weights = [weight(bits, "row") for bits in range(1, 9)]
    weights += [weight(bits, "groups") for bits in (2, 4, 5)] + [weight(3, "tensor")]
    same(Layers(weights, activation), activation, tmp_path)


@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_outliers_are_those_of_their_group(activation: str, tmp_path: Path) -> None:
    weights = [weight(4, scales, outliers=9) for scales in ("row", "groups")]
    same(Layers(weights, activation), activation, tmp_path)


def test_a_positional_convolution_as_wav2vec2_has_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(64, 64, 32, padding=16, groups=4)
    small = quantize.compress(nn.Sequential(layer, nn.GELU()), 4, progress=None)
    assert [w.activation for w in quantize.describe(small)] == ["int8"]
    x = torch.randn(1, 64, 20)
    net = compiled(torch.export.export(small, (x,)), tmp_path)
    assert relative_error(net(x), small(x)) <= BOUND
