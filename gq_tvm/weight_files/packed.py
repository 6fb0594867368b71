"""Weights by name in a safetensors file, codebooks with indices of as many bits as they have.

A weight in a codebook is the tensors ``NAME.indices`` (u8, indices one after the other from the
lowest bit on), ``NAME.codebook``, ``NAME.scale`` and ``NAME.zero`` (if it has zero points); the
metadata say its shape and bits. Others are under their names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gq_tvm import files
from gq_tvm.errors import Error
from gq_tvm.ops import bit_stream
from gq_tvm.ops.weight import Weight

METADATA = "gq-tvm weights"  # the key of it
_PARTS = ("codebook", "scale", "zero")


def write_weights(weights: Mapping[str, Weight | Tensor], path: Path) -> None:
    """Write weights by name.

    Args:
        weights: Codebooks without outliers, and other tensors.
        path: A file, replaced if it is there.

    Raises:
        Error: it cannot be written.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    table, held = {}, set[int]()

    def hold(name: str, tensor: Tensor) -> None:
        """safetensors takes no tensors that share memory."""
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in held else tensor
        held.add(place)

    for name, one in weights.items():
        if isinstance(one, Tensor):
            hold(name, one)
            continue
        table[name] = {"shape": list(one.indices.shape), "bits": one.bits}
        hold(
            f"{name}.indices",
            torch.from_numpy(bit_stream.packed(one.indices.reshape(-1), one.bits)),
        )
        for part in _PARTS:
            array = getattr(one, part)
            if array is not None:
                hold(f"{name}.{part}", torch.from_numpy(np.ascontiguousarray(array)))
    with files.whole(path) as temporary:
        save_file(tensors, temporary, {METADATA: json.dumps(table)})


def unpacked(name: str, entry: Any, get: Any) -> Weight:
    """The weight that the metadata of a file say is there.

    Args:
        name: What it is called.
        entry: Its metadata, which anybody may have written.
        get: The tensor of a name, None if there is none.

    Raises:
        Error: the metadata or the tensors make no weight.
    """
    shape, bits = _shape_and_bits(name, entry)
    arrays: list[Any] = []
    for part in ("indices", *_PARTS):
        tensor = get(f"{name}.{part}")
        if tensor is None and part != "zero":
            raise Error(f"{name} has no tensor {name}.{part}; write the file again")
        arrays.append(None if tensor is None else tensor.numpy())
    indices, *rest = arrays
    count = int(np.prod(shape, dtype=object))
    if indices.dtype != np.uint8 or indices.shape != (-(-count * bits // 8),):
        raise Error(f"{name} of {count} indices has not the bytes for them; write the file again")
    weight = Weight(bit_stream.unpacked(indices, count, bits).reshape(shape), *rest)
    weight.check(name, len(shape))
    return weight


def _shape_and_bits(name: str, entry: Any) -> tuple[list[int], int]:
    found: dict[str, Any] = entry if isinstance(entry, dict) else {}
    shape, bits = found.get("shape"), found.get("bits")
    sizes = shape if isinstance(shape, list) and len(shape) in (2, 3) else [0]
    if not all(type(one) is int and one > 0 for one in sizes) or type(bits) is not int:
        bits = 0
    if not 1 <= bits <= 8:
        raise Error(f"{name} has metadata without a shape and 1 to 8 bits; write the file again")
    return sizes, bits
