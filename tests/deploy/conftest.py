"""Bundles that several tests look at and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.codebook_models import Linear, Lstm, export, frames
from torch import nn

import gq_tvm
from gq_tvm import deploy
from gq_tvm.build import build

DIGITS = Path(gq_tvm.__file__).parent / "models" / "digits"


class Network(nn.Module):
    """Every way sizes and results can go: symbolic time, a state, views, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = Lstm(10, 8, "int8"), Linear(6, 8, activation="int8")

    def forward(self, x, h, c):
        y, new_h, new_c = self.lstm(x, h, c)
        return torch.tanh(self.out(y)), new_h, new_c


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> Path:
    """A folder with a bundle, ``bundle``, and the artefact of the same model, ``model.gq``."""
    folder = tmp_path_factory.mktemp("network")
    example = torch.randn(2, 3, 10), torch.zeros(2, 8), torch.zeros(2, 8)
    program = export(Network().eval(), *example, dynamic=({1: frames(1, 40)}, None, None))
    artefact = build(program)
    artefact.save(folder / "model.gq")
    deploy.write(artefact, folder / "bundle")
    return folder


@pytest.fixture(scope="session")
def recogniser(digits, tmp_path_factory) -> Path:
    """The same of the shipped recogniser."""
    folder = tmp_path_factory.mktemp("recogniser")
    digits.save(folder / "model.gq")
    deploy.write(digits, folder / "bundle")
    return folder


@pytest.fixture(scope="session")
def recordings() -> list[Path]:
    return sorted((DIGITS / "samples").glob("*.wav"))
