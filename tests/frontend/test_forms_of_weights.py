"""Scales and zero points of groups, and tables of groups, from PyTorch to the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.codebook_models import compiled, export, relative_error
from helpers.weights import weight
from torch import nn

from gq_tvm.quantize import CodebookConv1d, CodebookEmbedding, CodebookLinear, CodebookLSTM


def small(rows: int, width: int, **form: Any):
    """A weight of about the size that keeps a network's values about 1."""
    made = weight(rows, width, 4, **form)
    factor = np.float32(width**-0.5 / (100 if made.scale.dtype == np.uint8 else 1))
    if made.scale.dtype == np.uint8:
        return replace(made, codebook=made.codebook * factor)
    return replace(made, scale=made.scale * made.scale.dtype.type(factor))


class Grouped(nn.Module):
    """A layer of every kind, its weights in groups."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.ids = CodebookEmbedding(
            small(11, 40, scale="group", group=16, zero=True, stored="float16")
        )
        held = small(24, 120, scale="group", group=32, stored="uint8")
        held = replace(held, indices=held.indices.reshape(24, 40, 3))
        self.front = CodebookConv1d(held, torch.randn(24), activation, padding=1)
        deep = small(24, 17, scale="group", group=16, zero=True, stored="float16")
        deep = replace(deep, indices=deep.indices.reshape(24, 1, 17))
        self.deep = CodebookConv1d(deep, None, "fp32", padding=8, groups=24)
        pair = (
            small(64, 24, scale="group", group=16, seed=1, stored="float16"),
            small(64, 16, scale="row", zero=True, seed=2),
        )
        self.lstm = CodebookLSTM([pair], [torch.randn(64)], activation, batch_first=True)
        self.tables = CodebookLinear(
            small(130, 16, scale="row", tables="row"), torch.randn(130), activation
        )
        self.out = CodebookLinear(
            small(9, 130, scale="row", tables="group", group=64), torch.randn(9), activation
        )

    def forward(self, ids):
        x = self.deep(self.front(self.ids(ids).transpose(1, 2))).transpose(1, 2)
        return self.out(torch.tanh(self.tables(self.lstm(x)[0])))


@pytest.mark.export
@pytest.mark.parametrize("kernel", ["auto", "scalar"])
@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_any_form_of_a_weight_compiles(tmp_path, activation, kernel):
    torch.manual_seed(0)
    model, ids = Grouped(activation), torch.arange(8)[None]
    net = compiled(export(model, ids), tmp_path, kernel=kernel)
    got = torch.from_numpy(
        net(ids.numpy())[0] if isinstance(net(ids.numpy()), tuple) else net(ids.numpy())
    )
    # A rounding that the sums' order tips moves an int8 layer by a step.
    assert relative_error(got, model(ids)) <= (1e-5 if activation == "fp32" else 2e-2)


@pytest.mark.export
def test_a_weight_of_groups_that_is_read_is_no_float_weight(tmp_path):
    """Where the groups are whole: ``F.linear(x, layer.weight)``."""

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = CodebookLinear(
                small(6, 64, scale="group", group=32, zero=True), None, "fp32"
            )

        def forward(self, x):
            return nn.functional.linear(x, self.layer.weight)

    model, x = Read(), torch.randn(3, 64)
    net = compiled(export(model, x), tmp_path)
    assert [(list(one.shape), one.bits) for one in net.layers] == [([6, 64], 4)]
    assert relative_error(net(x), model(x)) <= 1e-5


class Palettes(nn.Module):
    """Float layers of every kind, whose weights others have quantised."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.Embedding(50, 64)
        self.front = nn.Conv1d(64, 96, 3, stride=2, padding=1)
        self.deep = nn.Conv1d(96, 96, 9, padding=4, groups=96, bias=False)
        self.middle = nn.Linear(96, 128)
        self.out = nn.Linear(128, 33, bias=False)
        self.free = nn.Linear(33, 16)
        weights = [one.weight for one in (self.ids, self.front, self.deep, self.middle, self.out)]
        forms: list[dict[str, Any]] = [
            {"scale": "row"}, {}, {"bits": 3}, {"scale": "group"}, {"tables": "row"},
        ]  # fmt: skip
        for held, form in zip(weights, forms, strict=True):
            made = weight(len(held), held[0].numel(), **{"bits": 4, **form})
            if "scale" in form:
                levels = np.arange(-8, 8, dtype=np.float32)[None]
                made = replace(made, codebook=levels / np.float32(8))
            held.data = torch.from_numpy(made.expand()).reshape(held.shape) / 8

    def forward(self, ids):
        x = torch.relu(self.front(self.ids(ids).mT))
        return self.free(self.out(torch.relu(self.middle(self.deep(x).mT))))


@pytest.mark.export
def test_float_weights_of_few_values_compile_as_codebooks(tmp_path):
    torch.manual_seed(0)
    model, ids = Palettes(), torch.arange(40).reshape(2, 20)
    net = compiled(export(model, ids), tmp_path)
    bits = {layer.name: layer.bits for layer in net.plan.layers}
    assert bits == {"ids": 4, "front": 4, "deep": 3, "middle": 4, "out": 4}
    assert relative_error(torch.from_numpy(net(ids.numpy())), model(ids)) <= 1e-6
