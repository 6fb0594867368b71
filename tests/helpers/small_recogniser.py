"""A model with one layer of each supported kind, small enough to train in a test."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Recogniser(nn.Module):
    """ids [B, T] and an LSTM state -> logits [B, T, 11] and the state; the output is tied."""

    def __init__(self, tie=True):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.front = nn.Conv1d(8, 12, 3, padding=1)
        self.depthwise = nn.Conv1d(12, 12, 3, padding=1, groups=12)
        self.encoder = nn.LSTM(12, 10, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(10)
        self.projection = nn.Linear(10, 8)
        self.output = nn.Linear(8, 11, bias=False)
        if tie:
            self.output.weight = self.embedding.weight

    def forward(self, ids, h, c):
        x = self.embedding(ids).transpose(1, 2)
        x = torch.relu(self.depthwise(torch.relu(self.front(x))))
        y, (h, c) = self.encoder(x.transpose(1, 2), (h, c))
        return self.output(torch.tanh(self.projection(self.norm(y)))), h, c


def inputs(batch=3, frames=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 11, (batch, frames), generator=generator)
    return ids, torch.zeros(2, batch, 10), torch.zeros(2, batch, 10)


def recogniser(seed=0, tie=True) -> Any:
    torch.manual_seed(seed)
    return Recogniser(tie)


def train(model, steps, annealing=None, lr=3e-3):
    """Learn to repeat the previous id; returns the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    loss = torch.tensor(0.0)
    for step in range(steps):
        ids, h, c = inputs(batch=8, seed=step)
        logits, _, _ = model(ids, h, c)
        loss = nn.functional.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if annealing is not None:
            annealing.step()
    return loss.item()
