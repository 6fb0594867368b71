"""The transducer loss, exact, vectorised over labels.

Graves, "Sequence Transduction with Recurrent Neural Networks" (2012), section 2.4. Moving up
the label axis at one time step is a linear recurrence, so with the labels' running sum
L(u) = sum_{k < u} log y(t, k) the whole column of forward variables is
``alpha(t, u) = L(u) + logcumsumexp_u(alpha(t-1, u) + log blank(t-1, u) - L(u))``,
and only time needs a loop.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rnnt_loss(
    logits: Tensor, tokens: Tensor, frames: Tensor, lengths: Tensor, blank: int = 0
) -> Tensor:
    """Negative log-likelihood [B] of the tokens, in nats.

    ``logits`` f32 [B, T, U + 1, V]; ``tokens`` i64 [B, U]; ``frames`` and ``lengths`` i64 [B] say
    how much of T and U is real (at least one frame). The lattice is summed in float64: the
    running sums of long targets would lose digits in float32.
    """
    batch, times, columns, _ = logits.shape
    normaliser = logits.logsumexp(-1)
    stay = (logits[..., blank] - normaliser).double()  # [B, T, U + 1]
    labels = tokens[:, None, :, None].expand(batch, times, columns - 1, 1)
    emit = (logits[:, :, :-1].gather(-1, labels).squeeze(-1) - normaliser[:, :, :-1]).double()
    # Labels beyond a target's length must not disturb the columns before them: they cannot,
    # sums run upwards only; a zero keeps them finite.
    real = torch.arange(columns - 1, device=logits.device) < lengths[:, None]
    emit = emit.masked_fill(~real[:, None], 0.0)
    climb = torch.nn.functional.pad(emit.cumsum(-1), (1, 0))  # L(u) [B, T, U + 1]

    alpha = climb[:, 0]
    columns_by_time = [alpha]
    for time in range(1, times):
        entered = alpha + stay[:, time - 1] - climb[:, time]
        alpha = climb[:, time] + torch.logcumsumexp(entered, -1)
        columns_by_time.append(alpha)
    alphas = torch.stack(columns_by_time, 1)
    rows = torch.arange(batch, device=logits.device)
    return -(alphas + stay)[rows, frames - 1, lengths].to(logits.dtype)
