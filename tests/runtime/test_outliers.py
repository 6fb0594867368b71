"""Layers of every kind whose weights have outliers, from PyTorch to the compiled artefact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.codebook_models import export, frames, relative_error
from torch import nn

import gq_tvm
import gq_tvm.quantize
from gq_tvm.build import build, products
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer, buffers_of
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.verification.bound import verify

pytestmark = pytest.mark.export

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


class Everything(nn.Module):
    """Batch norms fold into a product, and into a convolution in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.Embedding(9, 12)
        self.conv = nn.Conv1d(12, 20, 3, padding=1)
        self.norm = nn.BatchNorm1d(20)
        self.grouped = nn.Conv1d(20, 20, 3, padding=1, groups=4)
        self.again = nn.BatchNorm1d(20)
        self.depthwise = nn.Conv1d(20, 20, 5, padding=2, groups=20)
        self.lstm = nn.LSTM(20, 33, batch_first=True)
        self.gru = nn.GRU(33, 10, batch_first=True)
        self.out = nn.Linear(10, 7)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(self.ids(ids).transpose(1, 2)))
        x = self.depthwise(self.again(self.grouped(x))).transpose(1, 2)
        return self.out(self.gru(self.lstm(x)[0])[0])


def with_outliers(model: nn.Module) -> nn.Module:
    """Some in every weight; of one part of a layer none."""
    rng = np.random.default_rng(0)
    layers = [one for one in model.modules() if isinstance(one, CodebookLayer)]
    for layer in layers:
        for name, weight in list(layer.codebook_weights()):
            if name == "weight_hh_l0" and isinstance(layer, nn.GRU):
                continue
            count = weight.indices.numel() // 20
            at = np.sort(rng.choice(weight.indices.numel(), count, replace=False))
            values = torch.from_numpy(rng.standard_normal(count)).half()
            *_, positions, added = buffers_of(name)
            delattr(layer, positions)
            delattr(layer, added)
            layer.register_buffer(positions, torch.from_numpy(at).int())
            layer.register_buffer(added, values)
    return model


@pytest.mark.parametrize("activation", ["int8", "fp32"])
def test_every_kind_of_layer(activation, tmp_path):
    torch.manual_seed(0)
    floats = Everything().eval()
    with torch.no_grad():
        for name, statistic in floats.named_buffers():
            if name.endswith("running_var"):
                statistic.uniform_(0.2, 3)
    every = {"conv": activation, "lstm": activation, "gru": activation, "out": activation}
    plain = quantize.compress(floats, 4, activation={**every, "*": "fp32"})
    model = with_outliers(quantize.compress(floats, 4, activation={**every, "*": "fp32"}))
    ids = torch.randint(0, 9, (2, 11))
    program = export(model, ids, dynamic=({1: frames()},))
    build(program).save(tmp_path / "model.gq")
    net = gq_tvm.load(tmp_path / "model.gq")
    with torch.no_grad():
        wanted = model(ids)
        assert relative_error(wanted, plain(ids)) > 0.1
    assert relative_error(torch.as_tensor(net(ids)), wanted) <= 1e-5
    assert not verify(program, tmp_path / "model.gq").failures()
    by_tvm = gq_tvm.load(tmp_path / "model.gq", LocalDevice())
    np.testing.assert_array_equal(by_tvm(ids), net(ids))
    operands = {one.name: one.parameters for one in net.layers}
    assert {name for name, names in operands.items() if not any("outlier" in n for n in names)} == {
        "gru.hh"
    }
    assert not any(product.outliers for product in products(program))
