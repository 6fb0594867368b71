"""A recurrent neural network transducer (Graves 2012) over any of the encoders.

Built from plain ``torch.nn`` modules, so that :func:`gq_tvm.quantize.prepare` can replace them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.ctc import ctc_loss
from gq_tvm.models.networks.divergence import divergence
from gq_tvm.models.networks.encoder import Encoder
from gq_tvm.models.networks.rnnt_loss import rnnt_loss
from gq_tvm.speech.tokens import BLANK


@dataclass(frozen=True)
class RNNTSettings:
    """Sizes of the predictor, and the width where both sides meet."""

    predictor_size: int = 128
    predictor_layers: int = 1
    embedding_size: int = 64
    joint_size: int = 160
    dropout: float = 0.1


class Predictor(nn.Module):
    """Embedding, LSTM and a projection over the tokens so far."""

    def __init__(self, settings: RNNTSettings, tokens: int) -> None:
        super().__init__()
        size = settings.predictor_size
        self.embedding = nn.Embedding(tokens, settings.embedding_size)
        self.lstm = nn.LSTM(
            settings.embedding_size, size, settings.predictor_layers, batch_first=True
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.projection = nn.Linear(size, settings.joint_size)

    def forward(self, token: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens i64 [B, U], state [L, B, P] twice -> projection [B, U, J] and the new state."""
        y, (h, c) = self.lstm(self.dropout(self.embedding(token)), (h, c))
        return self.projection(self.dropout(y)), h, c


class Joint(nn.Module):
    """Scores of the next token from what was heard and what was said."""

    def __init__(self, settings: RNNTSettings, tokens: int) -> None:
        super().__init__()
        self.output = nn.Linear(settings.joint_size, tokens)

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        """Projections that broadcast, [..., J] -> logits [..., V]."""
        return self.output(torch.tanh(f + g))


class RNNT(nn.Module):
    """The three networks. ``auxiliary`` scores frames alone (CTC); it serves training only.

    Args:
        encoder: whose projection has ``settings.joint_size`` values.
        settings: sizes of the rest.
        features: F, values in a frame.
        tokens: V, blank included.
    """

    def __init__(
        self, encoder: Encoder, settings: RNNTSettings, features: int, tokens: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.features = features
        self.encoder = cast(nn.Module, encoder)
        self.predictor = Predictor(settings, tokens)
        self.joint = Joint(settings, tokens)
        self.auxiliary = nn.Linear(settings.joint_size, tokens)

    def state_shapes(self, batch: int = 1) -> dict[str, dict[str, list[int]]]:
        """Shapes of the states of encoder and predictor, by name, in the order they are taken."""
        s = self.settings
        predictor = [s.predictor_layers, batch, s.predictor_size]
        encoder = cast(Encoder, self.encoder).state_shapes(batch)
        return {"encoder": encoder, "predictor": {"h": predictor, "c": predictor}}

    def forward(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of every lattice node and of the frames alone.

        Features [B, T, F] and tokens i64 [B, U] -> [B, T, U + 1, V] and [B, T, V].
        """
        shapes = self.state_shapes(features.shape[0])
        f = self.encoder(features, *zeros(shapes["encoder"], features))[0]
        started = functional.pad(tokens, (1, 0), value=BLANK)  # blank stands for the start
        g = self.predictor(started, *zeros(shapes["predictor"], features))[0]
        return self.joint(f[:, :, None], g[:, None]), self.auxiliary(f)

    def scores(self, batch: Batch) -> tuple[Tensor, ...]:
        """What ``loss`` and ``divergence`` compare: the logits of the lattice and the frames."""
        return self(batch.features, batch.tokens)

    def loss(self, scores: tuple[Tensor, ...], batch: Batch, auxiliary: float) -> Tensor:
        """Transducer loss a token, plus ``auxiliary`` times the CTC loss of frames a token."""
        lattice, frames = scores
        losses = rnnt_loss(lattice, batch.tokens, batch.frames, batch.lengths)
        loss = losses.sum() / batch.count
        return loss + auxiliary * ctc_loss(frames, batch) if auxiliary else loss

    def divergence(
        self, scores: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch
    ) -> Tensor:
        """KL divergence of the teacher's tokens from these, a node of the lattice, in nats."""
        lattice, goal = scores[0], teacher[0]
        times = torch.arange(lattice.shape[1]) < batch.frames[:, None]
        columns = torch.arange(lattice.shape[2]) <= batch.lengths[:, None]
        return divergence(lattice, goal, times[:, :, None] & columns[:, None])


def zeros(shapes: dict[str, list[int]], like: Tensor) -> tuple[Tensor, ...]:
    """A state before the first frame."""
    return tuple(like.new_zeros(shape) for shape in shapes.values())
