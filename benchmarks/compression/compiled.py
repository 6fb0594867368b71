"""A compressed network as an artefact, which must say what PyTorch says."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gq_tvm
from benchmarks.compression.models.model import Floats, Model


class Artefact(nn.Module):
    """A compiled network that is called like the one it was made of."""

    def __init__(self, compiled: Any) -> None:
        super().__init__()
        self._compiled = compiled

    def forward(self, *inputs: Tensor) -> Any:
        """Tensors in and out."""
        outputs = self._compiled(*(one.contiguous().numpy() for one in inputs))
        return tuple(torch.from_numpy(one.copy()) for one in outputs)


def difference(model: Model, net: nn.Module, outputs: Floats) -> float:
    """The largest by which the artefact's outputs differ from PyTorch's."""
    program = torch.export.export(net, model.examples())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gq"
        gq_tvm.build(program, threads=1).save(path)
        said = model.outputs(Artefact(gq_tvm.load(path)))
    return float(abs(said - outputs).max())
