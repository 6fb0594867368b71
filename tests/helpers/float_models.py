"""A float model of all that is made a layer again, as others export it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram


class Mixed(nn.Module):
    """Embedding, LSTM, GRU, convolutions, attention, cells, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True)
        self.gru = nn.GRU(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3, padding="same"))
        self.conv = nn.Conv1d(8, 8, 3, padding=1, padding_mode="reflect")
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.cell = nn.LSTMCell(8, 8)
        self.gru_cell = nn.GRUCell(8, 8, bias=False)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor, state: dict[str, Tensor]) -> dict[str, Any]:
        """Scores [B, 5, 20] of ids [B, 5], and the state of the cells [B, 8] each."""
        x, _ = self.lstm(self.embed(ids))
        y, _ = self.gru(x.transpose(0, 1))
        x = self.conv(self.normed((x + y.transpose(0, 1)).mT)).mT
        x = self.norm(x + self.attention(x, x.flip(1), x)[0])
        h, c = self.cell(x[:, 0], (state["h"], state["c"]))
        return {"scores": self.out(x), "state": {"h": self.gru_cell(x[:, 1], h), "c": c}}


def mixed(seed: int = 0) -> ExportedProgram:
    """It, exported for any batch up to 9."""
    torch.manual_seed(seed)
    state = {"h": torch.randn(2, 8), "c": torch.randn(2, 8)}
    batch = {0: Dim("B", min=1, max=9)}
    shapes = (batch, {"h": batch, "c": batch})
    ids = torch.randint(0, 20, (2, 5))
    return torch.export.export(Mixed().eval(), (ids, state), dynamic_shapes=shapes)


def mixed_inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Its inputs, flat."""
    return torch.randint(0, 20, (batch, 5)), torch.randn(batch, 8), torch.randn(batch, 8)
