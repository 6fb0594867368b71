"""An encoder of LSTM layers, as of the first RNN transducers (Graves 2012)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LSTMEncoderSettings:
    """Cells in a layer, layers, and the share of values dropped in training."""

    size: int = 256
    layers: int = 3
    dropout: float = 0.1


class LSTMEncoder(nn.Module):
    """LSTM layers, each normalised, and a projection; sees only the past.

    Args:
        settings: sizes.
        features: F, values in a frame.
        outputs: J, values of the projection.
    """

    def __init__(self, settings: LSTMEncoderSettings, features: int, outputs: int) -> None:
        super().__init__()
        size = settings.size
        self.settings = settings
        inputs = [features] + [size] * (settings.layers - 1)
        self.lstm = nn.ModuleList(nn.LSTM(i, size, batch_first=True) for i in inputs)
        self.norm = nn.ModuleList(nn.LayerNorm(size) for _ in inputs)
        self.dropout = nn.Dropout(settings.dropout)
        self.projection = nn.Linear(size, outputs)

    def state_shapes(self, batch: int) -> dict[str, list[int]]:
        """Shapes of the state's tensors, f32, in the order ``forward`` takes them."""
        shape = [self.settings.layers, batch, self.settings.size]
        return {"h": shape, "c": shape}

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, T, F], state [L, B, H] twice -> projection [B, T, J] and the new state."""
        x, hs, cs = features, [], []
        for layer, (lstm, norm) in enumerate(zip(self.lstm, self.norm, strict=True)):
            x, (h_n, c_n) = lstm(x, (h[layer : layer + 1], c[layer : layer + 1]))
            x = self.dropout(norm(x))
            hs.append(h_n)
            cs.append(c_n)
        return self.projection(x), torch.cat(hs), torch.cat(cs)
