"""Layers with weights and activations of 1 and 2 bits, from PyTorch to the compiled artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.codebook_models import export, frames, relative_error
from torch import nn

import gq_tvm
import gq_tvm.quantize
from gq_tvm import schedules, targets
from gq_tvm.build import build
from gq_tvm.schedules import Product
from gq_tvm.verification.bound import verify

pytestmark = pytest.mark.export

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


class Speech(nn.Module):
    """An LSTM and a convolution between float layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 20, 3, padding=1)
        self.norm = nn.LayerNorm(20)
        self.lstm = nn.LSTM(20, 33, batch_first=True)
        self.out = nn.Linear(33, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2))
        return self.out(self.lstm(x)[0])


def kernel(bits: int, activation: str) -> str:
    product = Product(4, 4, bits, activation, None)
    return schedules.families_for(targets.get("native"), product)[0].name


def check(model: nn.Module, x: torch.Tensor, folder: Path) -> gq_tvm.runtime.Model:
    program = export(model, x, dynamic=({1: frames()},))
    build(program).save(folder / "model.gq")
    net = gq_tvm.load(folder / "model.gq")
    with torch.no_grad():
        assert relative_error(torch.as_tensor(net(x)), model(x)) <= 1e-5
    assert not verify(program, folder / "model.gq").failures()
    return net


@pytest.mark.parametrize(("bits", "activation"), [(1, "int1"), (2, "int2"), (3, "int1")])
def test_a_perceptron(bits, activation, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(20, 70), nn.Hardtanh(), nn.Linear(70, 50), nn.Tanh(), nn.Linear(50, 3))
    )
    compressed = quantize.compress(model, bits, activation=activation)
    net = check(compressed, torch.randn(4, 5, 20), tmp_path)
    assert {layer.kernel for layer in net.layers} == {kernel(bits, activation)}
    assert {layer.activation for layer in net.layers} == {activation}


@pytest.mark.parametrize("few", ["int1", "int2"])
def test_few_bits_in_chosen_layers(few, tmp_path):
    torch.manual_seed(0)
    compressed = quantize.compress(
        Speech(), 4, {"lstm": 1, "conv": 2}, {"lstm": few, "conv": "int2"}
    )
    net = check(compressed, torch.randn(2, 9, 12), tmp_path)
    kinds = {layer.name: (layer.bits, layer.activation, layer.kernel) for layer in net.layers}
    for name, kind in kinds.items():
        if name.startswith("lstm"):
            assert kind == (1, few, kernel(1, few)), name
        elif name.startswith("conv"):
            assert kind == (2, "int2", kernel(2, "int2")), name
        else:
            assert kind == (4, "int8", kernel(4, "int8")), name


def test_training_reaches_what_is_deployed(tmp_path):
    """A model learns with signs in place of its activations, and computes the same compiled."""
    torch.manual_seed(0)
    model = quantize.prepare(
        nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1)),
        2,
        activation={"2": "int1"},
    )
    x = torch.randn(256, 1, 8)
    wanted = x[..., :2].sum(-1, keepdim=True).sign()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (model(x) - wanted).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    converted = quantize.convert(model)
    assert (converted(x) - wanted).square().mean() < 0.6 * losses[0]
    check(converted, x[:4].transpose(0, 1).contiguous(), tmp_path)
