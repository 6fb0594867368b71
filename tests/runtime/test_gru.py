"""A GRU from training to the compiled model, with every layer that can be quantised beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gq_tvm
import gq_tvm.quantize

pytestmark = pytest.mark.export

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


class Everything(nn.Module):
    """ids [B, T] and a state of each recurrent layer -> logits [B, T, 11], and the states."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.front = nn.Conv1d(16, 24, 3, padding=1)
        self.attention = nn.MultiheadAttention(24, 2, batch_first=True)
        self.gru = nn.GRU(24, 20, num_layers=2, batch_first=True)
        self.lstm = nn.LSTM(20, 16, batch_first=True)
        self.output = nn.Linear(16, 11)

    def forward(self, ids, g, h, c):
        x = self.front(self.embedding(ids).transpose(1, 2)).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x, g = self.gru(x, g)
        x, (h, c) = self.lstm(x, (h, c))
        return self.output(x), g, h, c


def inputs(frames: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(frames)
    shapes = (2, batch, 20), (1, batch, 16), (1, batch, 16)
    return (torch.randint(0, 11, (batch, frames)), *(torch.randn(shape) for shape in shapes))


def test_every_layer_compiles(tmp_path):
    torch.manual_seed(0)
    model = quantize.prepare(Everything(), 4, {"gru.weight_hh*": 2})
    quantize.Annealing(model, 10)
    model(*inputs(5))[0].sum().backward()  # all of it trains
    assert all(p.grad is not None for p in model.parameters())
    assert {w.bits for w in quantize.describe(model)} == {2, 4}
    frames = torch.export.Dim("T", min=2, max=64)
    program = torch.export.export(
        quantize.convert(model), inputs(5), dynamic_shapes=({1: frames}, None, None, None)
    )
    gq_tvm.build(program, target="native").save(str(tmp_path / "model.gq"))
    net = gq_tvm.load(str(tmp_path / "model.gq"))
    names = {layer.name for layer in net.layers}
    assert {"gru.0.ih", "gru.0.hh", "gru.1.ih", "gru.1.hh", "attention.q_proj"} <= names
    model.eval()
    for length in (2, 9):
        got = net(*(x.numpy() for x in inputs(length)))
        for one, wanted in zip(got, model(*inputs(length)), strict=True):
            # A last-bit difference may round to the next of 127 steps.
            np.testing.assert_allclose(one, wanted.numpy(), atol=2e-2)
            assert np.median(np.abs(one - wanted.numpy())) < 1e-4


def test_parts_in_float_compile(tmp_path):
    torch.manual_seed(0)
    left = {"gru.weight_*_l1": None, "attention.in_proj_weight": None, "lstm": None}
    model = quantize.compress(Everything(), 4, left)
    program = torch.export.export(model, inputs(3, 1))
    gq_tvm.build(program, target="native").save(str(tmp_path / "model.gq"))
    net = gq_tvm.load(str(tmp_path / "model.gq"))
    names = {layer.name for layer in net.layers}
    assert {"gru.ih", "gru.hh", "attention.out_proj"} <= names
    assert not {name for name in names if "lstm" in name or "q_proj" in name}
    got = net(*(x.numpy() for x in inputs(3, 1)))
    for one, wanted in zip(got, model(*inputs(3, 1)), strict=True):
        np.testing.assert_allclose(one, wanted.detach().numpy(), atol=2e-2)
        assert np.median(np.abs(one - wanted.detach().numpy())) < 1e-4


@pytest.mark.parametrize(("activation", "bits"), [("int1", 1), ("fp32", 3)])
def test_a_gru_alone(tmp_path, activation, bits):
    torch.manual_seed(0)
    model = quantize.compress(
        nn.Sequential(nn.GRU(20, 33, batch_first=True)), bits, None, activation
    )
    x = torch.randn(1, 6, 20)
    gq_tvm.build(torch.export.export(model, (x,)), target="native").save(str(tmp_path / "gru.gq"))
    net = gq_tvm.load(str(tmp_path / "gru.gq"))
    assert [(one.kind, one.bits, one.activation) for one in net.layers] == [
        ("gru", bits, activation)
    ] * 2
    y, _ = net(x.numpy())
    assert np.median(np.abs(y - model(x)[0].numpy())) < 1e-5
