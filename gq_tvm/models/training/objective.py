"""What training makes small, whatever the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.network import Network


@dataclass
class Teacher:
    """A trained network whose scores another learns from, and how much they count.

    ``weight`` is that of the divergence beside a loss of one.
    """

    network: Network
    weight: float

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)


def objective(
    network: Network, batch: Batch, auxiliary: float = 0.0, teacher: Teacher | None = None
) -> Tensor:
    """Loss a token, plus the divergence from a teacher if there is one; see the network's own."""
    scores = network.scores(batch)
    loss = network.loss(scores, batch, auxiliary)
    if teacher is not None and teacher.weight:
        with torch.no_grad():
            goal = teacher.network.scores(batch)
        loss = loss + teacher.weight * network.divergence(scores, goal, batch)
    return loss
