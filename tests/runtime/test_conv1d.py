"""Convolutions along one axis with weights in codebooks: their kernels read windows themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.codebook_models import compiled, relative_error
from torch import Tensor, nn

from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.deployed.codebook_layers import CodebookConv1d

pytestmark = [pytest.mark.export, pytest.mark.native]

#: Outputs, channels, taps, stride, padding, dilation, outliers.
FORMS: list[tuple[int, ...]] = [
    (40, 5, 3, 1, 1, 1, 0),
    (70, 33, 2, 2, 0, 1, 0),
    (19, 3, 7, 3, 9, 2, 12),
    (16, 20, 5, 1, 2, 3, 7),
    (33, 4, 8, 8, 0, 1, 0),
]
BITS = {"int8": 4, "fp32": 3, "int1": 1, "int2": 2}
LENGTHS = (9, 17, 131)  # fewer frames than a block has rows, one more, several blocks


def layer(form: tuple[int, ...], activation: str) -> nn.Module:
    outputs, channels, taps, stride, padding, dilation, outliers = form
    rng = torch.Generator().manual_seed(outputs)
    bits, width = BITS[activation], channels * taps
    indices = torch.randint(0, 2**bits, (outputs, channels, taps), generator=rng).byte()
    table = torch.linspace(-127, 127, 2**bits).round()[None] / 127
    scale = torch.rand(outputs, generator=rng) + 0.1
    positions: Any = None
    values: Any = None
    if outliers and activation in ("int8", "fp32"):
        places = torch.randperm(outputs * width, generator=rng)[:outliers]
        positions = places.sort().values.int()
        values = 10 * torch.randn(outliers, generator=rng).half()
    weight = WeightTensors(indices, table, scale, None, positions, values)
    bias = torch.randn(outputs, generator=rng)
    return CodebookConv1d(weight, bias, activation, stride, padding, dilation, 1)


class Layers(nn.Module):
    def __init__(self, activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(form, activation) for form in FORMS)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [one(x).relu() for one, x in zip(self.layers, inputs, strict=True)]


def inputs(batch: int, frames: int) -> tuple[Tensor, ...]:
    """Magnitudes that differ, so that rows have scales of their own."""
    rng = torch.Generator().manual_seed(frames)
    made = [torch.randn(batch, form[1], frames, generator=rng) for form in FORMS]
    return tuple(x * torch.logspace(-2, 2, frames) for x in made)


@pytest.mark.parametrize("activation", BITS)
def test_any_length_and_batch(activation: str, tmp_path: Path):
    model = Layers(activation).eval()
    sizes = {0: torch.export.Dim("b", min=1, max=9), 2: torch.export.Dim("t", min=16, max=999)}
    program = torch.export.export(model, inputs(2, 20), dynamic_shapes=((sizes,) * len(FORMS),))
    net = compiled(program, tmp_path)
    for batch, frames in zip((1, 2, 3, 1), (16, 17, 40, 131), strict=True):
        x = inputs(batch, frames)
        for got, wanted in zip(net(*x), model(*x), strict=True):
            assert got.shape == wanted.shape
            assert relative_error(got, wanted) < 1e-5


@pytest.mark.parametrize("frames", LENGTHS)
def test_lengths_known_beforehand(frames: int, tmp_path: Path):
    model, x = Layers("int8").eval(), inputs(2, frames)
    net = compiled(torch.export.export(model, x), tmp_path)
    for got, wanted in zip(net(*x), model(*x), strict=True):
        assert relative_error(got, wanted) < 1e-5
