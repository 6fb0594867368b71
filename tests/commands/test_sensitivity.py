"""``gq-tvm sensitivity`` and ``allocate`` of what it wrote, from an exported float program on."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gq_tvm import allocate, compress, sensitivity
from gq_tvm.quantize import Sensitivity

pytestmark = pytest.mark.export


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.output = nn.Linear(8, 3)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return self.output(y), h, c


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("float")
    inputs = torch.randn(1, 4, 6), torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    torch.export.save(torch.export.export(Small().eval(), inputs), made / "model.pt2")
    several: dict[str, Any] = {
        "x": torch.randn(5, 1, 4, 6).numpy(),
        "h": inputs[1].numpy(),
        "c": inputs[2].numpy(),
    }
    np.savez(made / "inputs.npz", **several)
    return made


def test_from_a_program_to_bits(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    given = ["model.pt2", "--inputs", "inputs.npz", "--bits", "2,4", "-o", "found.json"]
    assert sensitivity.main(given) == 0
    captured = capsys.readouterr()
    assert "SQNR of the model's outputs" in captured.out
    assert "6/6" in captured.err
    found = Sensitivity.load("found.json")
    assert found.weights.keys() == {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "output.weight"}
    assert found.choices == [2, 4]
    assert allocate.main(["found.json", "--sqnr", "15", "-o", "bits.toml"]) == 0
    assert "if the noises of the weights add up" in capsys.readouterr().out
    overrides = tomllib.loads((folder / "bits.toml").read_text())["quantise"]["overrides"]
    assert overrides.keys() == found.weights.keys()
    assert set(overrides.values()) <= {2, 4, 32}
    assert compress.main(["model.pt2", "--allocation", "bits.toml", "-o", "small.pt2"]) == 0
    shown = capsys.readouterr().out
    for name, bits in overrides.items():
        assert re.search(rf"^{re.escape(name)} +\d+x\d+ +{bits} ", shown, re.MULTILINE), shown
    (folder / "wrong.toml").write_text("[quantise.overrides]\n'output.weight' = 9\n")
    assert compress.main(["model.pt2", "--allocation", "wrong.toml", "-o", "small.pt2"]) == 2
    assert "bits of output.weight must be 1 to 8 or 32, got 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        (sensitivity, ["none.pt2", "--inputs", "inputs.npz"], "none.pt2 does not exist"),
        (sensitivity, ["model.pt2", "--inputs", "none.npz"], "none.npz does not exist"),
        (sensitivity, ["model.pt2", "--inputs", "inputs.npz", "--bits", "9"], "no bits"),
        (sensitivity, ["model.pt2", "--inputs", "inputs.npz", "-o", "no/a.json"], "no such folder"),
        (allocate, ["model.pt2", "--budget", "1KB"], "model.pt2"),
        (allocate, ["a.safetensors", "--budget", "1KB"], "needs --config"),
        (
            allocate,
            ["a.safetensors", "--config", "x", "--sqnr", "3"],
            "give --budget with --config",
        ),
        (allocate, ["inputs.json"], "one of the arguments --budget --sqnr is required"),
    ],
)
def test_commands_refuse_in_a_sentence(folder, monkeypatch, capsys, command, options, words):
    monkeypatch.chdir(folder)
    assert command.main(options) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
