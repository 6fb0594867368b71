"""A file of more than 100 MB: an encoder of random weights, as PyTorch exports it.

It stands for the large files that no package ships: what an import holds beside a model's own bytes
does not hang on what is in them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

#: None are free in it.
SIZES: dict[str, int] = {}
_WIDTH, _LAYERS, _IDS = 512, 12, 20_000


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ids = nn.Embedding(_IDS, _WIDTH)
        one = nn.TransformerEncoderLayer(_WIDTH, 8, 4 * _WIDTH, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(one, _LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(self.ids(ids)))


def make(path: Path) -> Path:
    """Write it where it is not yet.

    Args:
        path: Of the file; its weights are in it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        ids = torch.zeros(1, 16, dtype=torch.int64)
        torch.onnx.export(
            _Encoder().eval(), (ids,), path, external_data=False, dynamo=True, verbose=False
        )
    return path
