"""Checkpoints: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gq_tvm import files, records
from gq_tvm.errors import Error


def save(path: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and a JSON description; an interruption leaves the old file in place.

    Raises Error when the file cannot be written, as on a full disk.
    """
    copies = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with files.whole(path, "make room, then resume") as temporary:
        try:
            save_file(copies, temporary, metadata={"gq": json.dumps(description)})
        except SafetensorError as error:  # what safetensors makes of an OSError
            raise OSError(str(error)) from None


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a checkpoint; raises Error when it is missing or damaged."""
    path = Path(path)
    if not os.path.exists(path):
        raise Error(f"{path}: there is no such checkpoint; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            description = records.loads((file.metadata() or {})["gq"])
            if not isinstance(description, dict):
                raise ValueError("its description is no table")
            return {name: file.get_tensor(name) for name in file.keys()}, description  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise Error(
            f"{path} is no checkpoint of gq_tvm.train ({error}); start again or use another"
        ) from None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as flat, named tensors."""
    return {
        f"{number}.{name}": value
        for number, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimiser_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
