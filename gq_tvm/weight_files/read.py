"""Read a file of weights: GGUF, safetensors, or what ``gq-tvm import`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.ops import palettes
from gq_tvm.ops.weight import Weight
from gq_tvm.weight_files.gguf_file import read_gguf
from gq_tvm.weight_files.packed import METADATA, unpacked

Weights = dict[str, Weight | Tensor]

_GGUF = b"GGUF"
# OCP Microscaling Formats 1.0, section 5.3.3, in the order of its codes.
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def read_weights(path: Path | str, remark: Any = lambda text: None) -> Weights:
    """The tensors of a file by name; those that hold few values as the codebooks they are.

    Args:
        path: A ``.gguf`` or ``.safetensors`` file; which it is its first bytes say.
        remark: Called with a sentence on each tensor that loses its codebook.

    Raises:
        Error: the file is missing, damaged or of neither kind.
    """
    path = Path(path)
    if not path.is_file():
        raise Error(f"{path} is no file; give the path of one")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as failure:
        raise Error(f"{path} cannot be read ({failure.strerror}); choose another") from failure
    if start.startswith(_GGUF):
        return dict(_searched(read_gguf(path, remark)))
    if start[8:9] == b"{":
        return dict(_searched(_read_safetensors(path)))
    raise Error(f"{path} is neither a GGUF nor a safetensors file; give one of these")


def _searched(tensors: Iterator[tuple[str, Weight | Tensor]]) -> Iterator[Any]:
    """Tensors, floats that are codebooks as these."""
    for name, one in tensors:
        found = None
        if isinstance(one, Tensor) and one.is_floating_point() and one.dim() in (2, 3):
            found = palettes.find(one.float().numpy())
        yield name, one if found is None else found


def _read_safetensors(path: Path) -> Iterator[tuple[str, Weight | Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        names, metadata = set(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as failure:
        raise Error(f"{path} is damaged ({failure}); get it again") from failure
    try:
        table = json.loads(metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise Error(f"{path} has metadata that are no table of weights; write it again")

    def get(name: str) -> Tensor | None:
        try:
            return file.get_tensor(name) if name in names else None
        except (SafetensorError, KeyError, AttributeError) as failure:
            raise Error(
                f"{path}: {name} is of a dtype that safetensors does not give to PyTorch "
                f"({failure}); write it in another"
            ) from failure

    for name, entry in table.items():
        try:
            yield name, unpacked(name, entry, get)
        except Error as refusal:
            raise Error(f"{path}: {refusal}") from None
        names -= {f"{name}.{part}" for part in ("indices", "codebook", "scale", "zero")}
    for name in sorted(names):
        tensor = get(name)
        assert tensor is not None
        yield name, _of_four_bits(tensor) if tensor.dtype == _F4 else tensor


_F4 = getattr(torch, "float4_e2m1fn_x2", None)


def _of_four_bits(tensor: Tensor) -> Tensor:
    """Floats of 4 bits, two a byte and the lower bits first: f32, the last axis twice as long."""
    codes = tensor.view(torch.uint8)
    both = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    return torch.from_numpy(_E2M1)[both.int()]
