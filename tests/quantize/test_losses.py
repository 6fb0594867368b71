"""``losses`` says what a compressed model lost, and does not stay silent about a dead one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gq_tvm.quantize
from gq_tvm.errors import Error

quantize: Any = gq_tvm.quantize

pytestmark = pytest.mark.filterwarnings("ignore:compress. .* of their norm:UserWarning")


class Two(nn.Module):
    """Two float outputs and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 40), nn.Linear(40, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.second(self.first(x).relu())
        return {"y": y, "two": (y * 2, y.argmax(-1))}


def test_losses_are_of_each_layer_and_output():
    model, x = Two(), torch.randn(50, 8)
    compressed = quantize.compress(model, 4)
    lost = quantize.losses(model, compressed, [x[:20], x[20:]])
    with torch.no_grad():
        y, got = model(x)["y"], compressed(x)["y"]
    share = float((y - got).square().sum() / y.square().sum())
    assert [one.name for one in lost.outputs] == ["output.y", "output.two[0]"]
    assert [one.name for one in lost.layers] == ["first", "second"]
    for one in (*lost.outputs, lost.layers[1]):
        assert one.lost == pytest.approx(share, rel=1e-3)
        assert one.sqnr == pytest.approx(-10 * math.log10(share), rel=1e-3)
        both = torch.stack([y.flatten(), got.flatten()])
        assert one.correlation == pytest.approx(float(torch.corrcoef(both)[0, 1]), abs=1e-4)
    assert lost.warnings() == []
    assert json.loads(lost.to_json())["layers"][0]["name"] == "first"
    assert [line.split()[0] for line in str(lost).splitlines()[1:]] == [
        "first", "second", "output.y", "output.two[0]",
    ]  # fmt: skip


def test_a_model_is_no_loss_against_itself():
    model = Two()
    lost = quantize.losses(model, model, lambda m: m(torch.ones(3, 8)))
    assert [one.lost for one in lost.outputs] == [0, 0]
    assert lost.outputs[0].sqnr == math.inf


def test_a_dead_model_is_said_to_be_dead():
    model, inputs = Two(), [torch.randn(50, 8)]
    compressed = quantize.compress(model, 8)
    compressed.second.weight_scale.zero_()
    output, layer = quantize.losses(model, compressed, inputs).warnings()
    assert "2 of 2 outputs of the model lose more than 10% of their signal" in output
    assert "1 of 2 outputs of layers lose more than 50%" in layer
    assert "second 9" in layer  # but for the bias, all
    compressed.second.bias.fill_(torch.nan)
    assert quantize.losses(model, compressed, inputs).outputs[0].lost == math.inf


def test_compress_says_and_warns_of_what_is_lost():
    model: Any = nn.Sequential(nn.Linear(8, 60), nn.ReLU(), nn.Linear(60, 4))
    lines: list[str] = []
    with pytest.warns(UserWarning, match="compress: 1 of 1 outputs of the model lose more than"):
        quantize.compress(
            model, 1, activation="int1", inputs=[torch.randn(90, 8)], progress=lines.append
        )
    assert [line.split()[0] for line in lines[-1].splitlines()[1:]] == ["0", "2", "output"]


@pytest.mark.export
def test_exported_programs_are_compared_by_their_outputs():
    model, x = Two(), torch.randn(6, 8)
    compressed = quantize.compress(model, 4)
    exported = [torch.export.export(one, (x,)).module() for one in (model.eval(), compressed)]
    lost = quantize.losses(*exported, [x])
    assert lost.layers == []
    plain = quantize.losses(model, compressed, [x])
    assert [one.lost for one in lost.outputs] == pytest.approx([one.lost for one in plain.outputs])


def test_models_that_give_unlike_outputs_are_refused():
    with pytest.raises(Error, match=r"^losses: output is not of one shape in both models"):
        quantize.losses(nn.Linear(4, 3), nn.Linear(4, 2), [torch.ones(1, 4)])
