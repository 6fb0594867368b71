"""Recurrent layers in codebooks of every kind, from PyTorch to what runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import gq_tvm
from gq_tvm import quantize

pytestmark = pytest.mark.native


class EveryKind(nn.Module):
    """Stacks in both directions, one projected, and each cell on what they end in."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(13, 20, 2, bidirectional=True, proj_size=7, batch_first=True)
        self.gru = nn.GRU(14, 9, bidirectional=True, batch_first=True)
        self.rnn = nn.RNN(18, 11, bidirectional=True, nonlinearity="relu", batch_first=True)
        self.lstm_cell, self.gru_cell = nn.LSTMCell(22, 8), nn.GRUCell(8, 10)
        self.rnn_cell = nn.RNNCell(10, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.rnn(self.gru(self.lstm(x)[0])[0])
        h, _ = self.lstm_cell(state.transpose(0, 1).flatten(1))
        return y, self.rnn_cell(self.gru_cell(h))


@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_what_is_compiled_computes_the_model_over_any_number_of_frames(activation, tmp_path):
    torch.manual_seed(0)
    model: Any = quantize.compress(EveryKind(), 4, activation=activation)
    shapes = {"x": {1: Dim("T", max=500)}}
    program = torch.export.export(model, (torch.randn(2, 7, 13),), dynamic_shapes=shapes)
    gq_tvm.build(program, target="native").save(tmp_path / "model.gq")
    compiled = gq_tvm.load(tmp_path / "model.gq")
    names = {layer.name for layer in compiled.plan.layers}
    assert {"lstm.0.ih", "lstm.1_reverse.hr", "rnn.0_reverse.hh", "gru_cell.ih"} <= names
    for frames in (7, 1, 30):
        x = torch.randn(2, frames, 13)
        for got, wanted in zip(compiled(x.numpy()), model(x), strict=True):
            # int8: a last-bit difference of h may round to the next of 127 steps.
            atol = 1e-5 if activation == "fp32" else 2e-2
            np.testing.assert_allclose(got, wanted.numpy(), atol=atol)
            assert np.median(np.abs(got - wanted.numpy())) < 1e-5
