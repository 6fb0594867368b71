"""PyTorch's recurrent layers in float: exported for any number of frames, compiled as one loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import gq_tvm
import gq_tvm.quantize

pytestmark = pytest.mark.export

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


class Front(nn.Module):
    """x [B, T, 6] -> a linear layer in a codebook, a recurrent one in float."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.recurrent = recurrent

    def forward(self, x):
        x = self.linear(x)
        y, state = self.recurrent(x if self.recurrent.batch_first else x.transpose(0, 1))
        return y, *(state if isinstance(state, tuple) else [state])


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(8, 12, 2, bidirectional=True, batch_first=True),
        lambda: nn.LSTM(8, 12, proj_size=5, bias=False),
        lambda: nn.GRU(8, 12, bidirectional=True),
        lambda: nn.RNN(8, 12, nonlinearity="relu", batch_first=True),
    ],
)
def test_the_number_of_frames_stays_free(make, tmp_path):
    torch.manual_seed(0)
    model = quantize.compress(Front(make()), 4, {"recurrent": None}, "fp32")
    shapes = {"x": {0: Dim("B"), 1: Dim("T")}}
    program = torch.export.export(model, (torch.randn(2, 9, 6),), dynamic_shapes=shapes)
    artefact = gq_tvm.build(program, target="native")
    artefact.save(str(tmp_path / "model.gq"))
    net = gq_tvm.load(str(tmp_path / "model.gq"))
    for batch, frames in ((2, 9), (1, 1), (3, 20)):
        x = torch.randn(batch, frames, 6)
        with torch.no_grad():
            wanted = model(x)
        for got, exact in zip(net(x.numpy()), wanted, strict=True):
            np.testing.assert_allclose(got, exact.numpy(), atol=1e-5)
    assert any(name.startswith("recurrent.weight_ih") for name in artefact.parameters)


def test_a_fixed_number_of_frames_is_no_longer_unrolled():
    model = quantize.compress(Front(nn.LSTM(8, 12, batch_first=True)), 4, {"recurrent": None})
    program = torch.export.export(model, (torch.randn(1, 40, 6),))
    function = gq_tvm.build(program, target="native").plan.functions["main"]
    assert len(function.calls) < 10


def test_outside_exporting_pytorchs_shapes_are_its_own():
    layer = nn.GRU(8, 12)
    x = torch.randn(3, 2, 8, requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad is not None


class Backwards(nn.Module):
    """A GRU's codebook operator from the last frame of each sequence to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = quantize.compress(nn.GRU(8, 12, batch_first=True), 4, activation="fp32")

    def forward(self, x, h, lengths):
        gru = self.gru
        (ih, hh), biases = (
            [gru.codebook_weight(f"weight_{part}_l0") for part in ("ih", "hh")],
            [gru.bias_ih_l0, gru.bias_hh_l0],
        )
        outliers = [None] * 4
        return torch.ops.gq.codebook_gru(
            x, h, *ih.coded, *hh.coded, *biases, "fp32", *outliers, lengths, True
        )


def test_codebook_layers_take_lengths_and_go_backwards(tmp_path):
    torch.manual_seed(0)
    model = Backwards()
    inputs = torch.randn(3, 20, 8), torch.randn(3, 12), torch.tensor([20, 0, 7])
    shapes = {"x": {1: Dim("T")}, "h": None, "lengths": None}
    program = torch.export.export(model, inputs, dynamic_shapes=shapes)
    gq_tvm.build(program, target="native").save(str(tmp_path / "model.gq"))
    got = gq_tvm.load(str(tmp_path / "model.gq"))(*(one.numpy() for one in inputs))
    for one, exact in zip(got, model(*inputs), strict=True):
        np.testing.assert_allclose(one, exact.numpy(), atol=1e-5)
    assert (got[0][1] == 0).all()
    assert (got[1][1] == inputs[1][1].numpy()).all()
