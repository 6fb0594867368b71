"""What ``nn.LSTM`` does around its layers: argument layouts, the initial state, stacking."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gq_tvm.errors import Error


class Layer(Protocol):
    """One LSTM layer: x [B, T, I], h and c [B, H], its number -> y [B, T, H], h, c."""

    def __call__(
        self, x: Tensor, h: Tensor, c: Tensor, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one layer."""


def run_layers(
    layer: Layer,
    x: Tensor,
    state: tuple[Tensor, Tensor] | None,
    num_layers: int,
    hidden_size: int,
    batch_first: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run ``layer`` number 0, 1, ... with the arguments and results of ``nn.LSTM``.

    Args:
        layer: computes one layer, batch first.
        x: f32 [B, T, I] if ``batch_first``, else [T, B, I]; [T, I] without a batch.
        state: (h, c), each f32 [L, B, H], or [L, H] without a batch; None: zeros.
        num_layers: L.
        hidden_size: H.
        batch_first: which layout x and y have.

    Returns:
        y in the layout of x, and (h, c).

    Raises:
        Error: x is a PackedSequence or has another number of axes, or the state another shape.
    """
    if isinstance(x, PackedSequence):
        raise Error(
            "quantised LSTM: give padded frames instead of a PackedSequence; in one direction "
            "padding at the end does not change the frames before it."
        )
    batched = x.dim() == 3
    if x.dim() not in (2, 3):
        raise Error(f"quantised LSTM: x must have 2 or 3 axes, got {x.dim()}.")
    if not batched:
        x = x.unsqueeze(0)
    elif not batch_first:
        x = x.transpose(0, 1)
    if state is None:
        h0 = c0 = x.new_zeros(num_layers, x.shape[0], hidden_size)
    else:
        h0, c0 = state if batched else (s.unsqueeze(1) for s in state)
    for name, s in (("h", h0), ("c", c0)):
        if s.dim() != 3 or s.shape[0] != num_layers or s.shape[2] != hidden_size:
            raise Error(
                f"quantised LSTM: the state {name} must have shape "
                f"[{num_layers}, batch, {hidden_size}], got {list(s.shape)}."
            )
    hs, cs = [], []
    for number in range(num_layers):
        x, h, c = layer(x, h0[number], c0[number], number)
        hs.append(h)
        cs.append(c)
    h, c = torch.stack(hs), torch.stack(cs)
    if not batched:
        return x.squeeze(0), (h.squeeze(1), c.squeeze(1))
    return x if batch_first else x.transpose(0, 1), (h, c)
