"""What a model's codebook weights take up."""

from __future__ import annotations

from typing import Any

from torch import nn

LEFT_OUT = ("auxiliary",)  # serves training only, is not exported


def layer_table(model: nn.Module) -> list[dict[str, Any]]:
    """Name, shape, bits and packed bytes (indices and codebook) of each codebook weight."""
    buffers = dict(model.named_buffers())
    table = []
    for name, indices in buffers.items():
        module, _, leaf = name.rpartition(".")
        if not leaf.startswith("indices") or module.split(".")[0] in LEFT_OUT:
            continue
        codebook = buffers[f"{module}.{leaf.replace('indices', 'codebook', 1)}"]
        bits = (codebook.shape[-1] - 1).bit_length()
        table.append(
            {
                "name": f"{module}{leaf.removeprefix('indices').replace('_', '.', 1)}",
                "shape": list(indices.shape),
                "bits": bits,
                "packed_bytes": (indices.numel() * bits + 7) // 8 + 4 * codebook.numel(),
            }
        )
    return table
