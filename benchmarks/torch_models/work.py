"""One model, in a process of its own: compressed, exported, compiled, and compared.

python -m benchmarks.torch_models.work NAME RESULT.json [FOLDER]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gq_tvm
from benchmarks.torch_models.listed import ROWS, Row
from gq_tvm import quantize

BITS = 4
_MOVED = 1 + 1e-6  # by which inputs are multiplied


def measure(row: Row, folder: Path | None = None) -> dict[str, Any]:
    """What is to be told of a model; ``failed`` holds the stage and a sentence where one fails.

    Args:
        row: The model.
        folder: Of packages that are read but not imported.
    """
    torch.manual_seed(0)
    told: dict[str, Any] = {"stage": "make"}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _measure(row, folder, told)
    except Exception as failure:  # of any package: what is told is which stage failed, and how
        said = str(failure).strip().splitlines() or [""]
        told["failed"] = f"{told['stage']}: {type(failure).__name__}: {said[0][:300]}"
    return told


def _measure(row: Row, folder: Path | None, told: dict[str, Any]) -> None:
    model = row.make(folder).eval()
    inputs, others = row.inputs(), row.inputs()
    model(*inputs)
    told["exports"] = _why_not_exported(model, inputs)
    told["stage"] = "compress"
    small = quantize.compress(model, BITS, progress=None)
    weights = quantize.describe(small)
    told["weights"], told["left"] = len(weights), sum(one.bits > 8 for one in weights)
    told["stage"] = "run in PyTorch"
    wanted = _tensors(small(*others))
    moved = _tensors(small(*(one * _MOVED if one.is_floating_point() else one for one in others)))
    told["moved"] = max(_error(*pair) for pair in zip(_arrays(moved), wanted, strict=True))
    told["stage"] = "export"
    program = torch.export.export(small, inputs)
    told["stage"], begun = "compile", time.monotonic()
    artefact = gq_tvm.build(program, threads=1)
    told["seconds"] = time.monotonic() - begun
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "model.gq"
        artefact.save(path)
        files = [one.stat().st_size for one in path.rglob("*") if one.is_file()]
        net = gq_tvm.load(path)
        told["stage"] = "run"
        got = net(*(one.contiguous().numpy() for one in others))
        got = [np.array(one) for one in _tensors(got)]
    told["ratio"] = 4 * sum(one.numel() for one in model.parameters()) / sum(files)
    told["stage"] = "compare"
    told["error"] = max(_error(*pair) for pair in zip(got, wanted, strict=True))
    told["stage"] = "done"


def _why_not_exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> str | None:
    """Why PyTorch does not export the float model, None where it does."""
    try:
        torch.export.export(model, inputs)
    except Exception as failure:  # PyTorch's own: anything
        return (str(failure).strip().splitlines() or [type(failure).__name__])[0][:200]
    return None


def _tensors(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _arrays(tensors: list[Tensor]) -> list[Any]:
    return [one.numpy() for one in tensors]


def _error(got: Any, wanted: Tensor) -> float:
    """The relative L2 error; infinite where shapes differ."""
    if got.shape != tuple(wanted.shape):
        return float("inf")
    if not wanted.numel():
        return 0.0
    other = wanted.double().numpy()
    norm = float(np.linalg.norm(other))
    return float(np.linalg.norm(got.astype(np.float64) - other)) / (norm or 1.0)


def main() -> None:
    """Measure the model that the arguments name."""
    torch.set_num_threads(1)
    name, result, *folder = sys.argv[1:]
    (row,) = (one for one in ROWS if one.name == name)
    told = measure(row, Path(folder[0]) if folder else None)
    Path(result).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
