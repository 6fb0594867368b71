"""A recurrent neural network transducer (Graves 2012) with LSTM encoder and predictor.

Built from plain ``torch.nn`` modules, so that :func:`gq_tvm.quantize.prepare` can replace them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error

State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RNNTSettings:
    """Sizes of a transducer: LSTM cells, layers, and the width where both sides meet."""

    features: int = 160
    tokens: int = 29
    encoder_size: int = 256
    encoder_layers: int = 3
    predictor_size: int = 128
    embedding_size: int = 64
    joint_size: int = 160
    dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RNNTSettings:
        """Read what :meth:`to_dict` wrote; raises Error when the names differ."""
        try:
            return cls(**values)
        except TypeError as error:
            raise Error(
                f"these are not the sizes of a transducer ({error}); "
                "use a checkpoint of this version"
            ) from None


class Encoder(nn.Module):
    """LSTM layers, each normalised, and a projection; sees only the past."""

    def __init__(self, settings: RNNTSettings):
        super().__init__()
        size = settings.encoder_size
        inputs = [settings.features] + [size] * (settings.encoder_layers - 1)
        self.lstm = nn.ModuleList(nn.LSTM(i, size, batch_first=True) for i in inputs)
        self.norm = nn.ModuleList(nn.LayerNorm(size) for _ in inputs)
        self.dropout = nn.Dropout(settings.dropout)
        self.projection = nn.Linear(size, settings.joint_size)

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, T, F], state [L, B, H] twice -> projection [B, T, J] and the new state."""
        x, hs, cs = features, [], []
        for layer, (lstm, norm) in enumerate(zip(self.lstm, self.norm, strict=True)):
            x, (h_n, c_n) = lstm(x, (h[layer : layer + 1], c[layer : layer + 1]))
            x = self.dropout(norm(x))
            hs.append(h_n)
            cs.append(c_n)
        return self.projection(x), torch.cat(hs), torch.cat(cs)


class Predictor(nn.Module):
    """Embedding, one LSTM layer and a projection over the tokens so far."""

    def __init__(self, settings: RNNTSettings):
        super().__init__()
        self.embedding = nn.Embedding(settings.tokens, settings.embedding_size)
        self.lstm = nn.LSTM(settings.embedding_size, settings.predictor_size, batch_first=True)
        self.dropout = nn.Dropout(settings.dropout)
        self.projection = nn.Linear(settings.predictor_size, settings.joint_size)

    def forward(self, token: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens i64 [B, U], state [1, B, P] twice -> projection [B, U, J] and the new state."""
        y, (h, c) = self.lstm(self.dropout(self.embedding(token)), (h, c))
        return self.projection(self.dropout(y)), h, c


class Joint(nn.Module):
    """Scores of the next token from what was heard and what was said."""

    def __init__(self, settings: RNNTSettings):
        super().__init__()
        self.output = nn.Linear(settings.joint_size, settings.tokens)

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        """Projections that broadcast, [..., J] -> logits [..., V]."""
        return self.output(torch.tanh(f + g))


class RNNT(nn.Module):
    """The three networks. ``auxiliary`` scores frames alone (CTC); it serves training only."""

    def __init__(self, settings: RNNTSettings):
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings)
        self.predictor = Predictor(settings)
        self.joint = Joint(settings)
        self.auxiliary = nn.Linear(settings.joint_size, settings.tokens)

    def state_shapes(self, batch: int = 1) -> dict[str, dict[str, list[int]]]:
        """Shapes of ``h`` and ``c`` of encoder and predictor."""
        encoder = [self.settings.encoder_layers, batch, self.settings.encoder_size]
        predictor = [1, batch, self.settings.predictor_size]
        return {
            "encoder": {"h": encoder, "c": encoder},
            "predictor": {"h": predictor, "c": predictor},
        }

    def forward(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of every lattice node and of the frames alone.

        Features [B, T, F] and tokens i64 [B, U] -> [B, T, U + 1, V] and [B, T, V].
        """
        batch = features.shape[0]
        shapes = self.state_shapes(batch)
        f, _, _ = self.encoder(features, *_zeros(shapes["encoder"], features))
        started = nn.functional.pad(tokens, (1, 0), value=0)  # blank stands for the start
        g, _, _ = self.predictor(started, *_zeros(shapes["predictor"], features))
        return self.joint(f[:, :, None], g[:, None]), self.auxiliary(f)


def _zeros(shapes: dict[str, list[int]], like: Tensor) -> State:
    return like.new_zeros(shapes["h"]), like.new_zeros(shapes["c"])
