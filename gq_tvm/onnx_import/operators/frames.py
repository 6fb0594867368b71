"""Recurrent cells that PyTorch's layers lack, frame by frame: how many there are is a constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "softsign": functional.softsign,
}
_USUAL = {"lstm": "sigmoid,tanh,tanh", "rnn": "tanh"}  # a GRU's otherwise


def recurrent(
    x: Tensor,
    state: Sequence[Tensor],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    cell: str,
    lengths: Tensor | None = None,
    reverse: bool = False,
    clip: float = 0.0,
    functions: str = "",
) -> list[Tensor]:
    """Run a cell over a sequence in one direction.

    Args:
        x: f32 [B, T, I].
        state: h [B, H], and of an LSTM c [B, H].
        weight_ih: [gates * H, I], PyTorch's order of gates, as in the next three.
        weight_hh: [gates * H, H].
        bias_ih: [gates * H], or None.
        bias_hh: [gates * H], or None.
        cell: ``lstm``, ``gru``, ``gru_reset_before`` (the gate before the product) or ``rnn``.
        lengths: i64 [B], how many frames of each count; those behind give 0 and leave the state.
        reverse: Whether it runs from the last frame to the first.
        clip: The bound of what goes into each function; 0 is none.
        functions: Names joined by commas; "" for those of the cell.

    Returns:
        y [B, T, H], and the last state.
    """
    names = (functions or _USUAL.get(cell, "sigmoid,tanh")).split(",")
    own = [_clipped(_FUNCTIONS[name], clip) for name in names]
    now, frames = list(state), int(x.shape[1])
    from_x = functional.linear(x, weight_ih, bias_ih)
    ys: list[Tensor] = []
    for at in range(frames)[:: -1 if reverse else 1]:
        after = _step(cell, own, from_x[:, at], now, weight_hh, bias_hh)
        if lengths is None:
            now, y = after, after[0]
        else:
            counts = (lengths > at)[:, None]
            now = [torch.where(counts, new, old) for new, old in zip(after, now, strict=True)]
            y = torch.where(counts, after[0], torch.zeros_like(after[0]))
        ys.append(y)
    if not ys:
        return [x.new_zeros([x.shape[0], 0, now[0].shape[1]]), *now]
    return [torch.stack(ys[::-1] if reverse else ys, 1), *now]


def _clipped(function: Callable[[Tensor], Tensor], clip: float) -> Callable[[Tensor], Tensor]:
    return (lambda x: function(torch.clamp(x, -clip, clip))) if clip else function


def _step(
    cell: str,
    own: list[Callable[[Tensor], Tensor]],
    from_x: Tensor,
    state: list[Tensor],
    weight: Tensor,
    bias: Tensor | None,
) -> list[Tensor]:
    h = state[0]
    if cell == "rnn":
        return [own[0](from_x + functional.linear(h, weight, bias))]
    if cell == "lstm":
        parts = (from_x + functional.linear(h, weight, bias)).chunk(4, -1)
        c = own[0](parts[1]) * state[1] + own[0](parts[0]) * own[1](parts[2])
        return [own[0](parts[3]) * own[2](c), c]
    width = 2 * h.shape[1]
    last = None if bias is None else bias[width:]
    gates = None if bias is None else bias[:width]
    sums = from_x[:, :width] + functional.linear(h, weight[:width], gates)
    reset, update = own[0](sums).chunk(2, -1)
    if cell == "gru":
        new = own[1](from_x[:, width:] + reset * functional.linear(h, weight[width:], last))
    else:
        new = own[1](from_x[:, width:] + functional.linear(reset * h, weight[width:], last))
    return [(1 - update) * new + update * h]
