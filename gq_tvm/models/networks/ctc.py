"""Connectionist temporal classification (Graves et al. 2006): an encoder that scores frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.divergence import divergence
from gq_tvm.models.networks.encoder import Encoder


@dataclass(frozen=True)
class CTCSettings:
    """Nothing to choose: the encoder's projection is the output layer."""


class CTC(nn.Module):
    """One network, the encoder, whose projection gives a score to each token.

    Args:
        encoder: whose projection has a value for each token.
        features: F, values in a frame.
    """

    def __init__(self, encoder: Encoder, features: int) -> None:
        super().__init__()
        self.features = features
        self.encoder = cast(nn.Module, encoder)

    def state_shapes(self, batch: int = 1) -> dict[str, dict[str, list[int]]]:
        """Shapes of the encoder's state, by name, in the order they are taken."""
        return {"encoder": cast(Encoder, self.encoder).state_shapes(batch)}

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, T, F] -> logits [B, T, V]."""
        shapes = self.state_shapes(features.shape[0])["encoder"]
        return self.encoder(features, *map(features.new_zeros, shapes.values()))[0]

    def scores(self, batch: Batch) -> tuple[Tensor, ...]:
        """What ``loss`` and ``divergence`` compare: the logits of the frames."""
        return (self(batch.features),)

    def loss(self, scores: tuple[Tensor, ...], batch: Batch, auxiliary: float) -> Tensor:
        """CTC loss a token; there is no auxiliary one."""
        return ctc_loss(scores[0], batch)

    def divergence(
        self, scores: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: Batch
    ) -> Tensor:
        """KL divergence of the teacher's tokens from these, a frame, in nats."""
        times = torch.arange(scores[0].shape[1]) < batch.frames[:, None]
        return divergence(scores[0], teacher[0], times)


def ctc_loss(logits: Tensor, batch: Batch) -> Tensor:
    """CTC loss a token of frames' logits [B, T, V]; texts longer than their frames count 0."""
    losses = functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        batch.tokens,
        batch.frames,
        batch.lengths,
        reduction="none",
        zero_infinity=True,
    )
    return losses.sum() / batch.count
