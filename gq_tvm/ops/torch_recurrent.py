"""The recurrent codebook operators in PyTorch; see ``torch_ops``, which imports this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gq_tvm.ops import checks_recurrent as checks
from gq_tvm.ops.torch_weight import Operand, WeightTensors, operand, product

_PARTS = ("_ih", "_hh")
_WEIGHTS = ", ".join(
    f"Tensor indices{part}, Tensor codebook{part}, Tensor? scale{part}, Tensor? zero{part}"
    for part in _PARTS
)
_OUTLIERS = ", ".join(
    f"Tensor? outlier_positions{part}=None, Tensor? outlier_values{part}=None" for part in _PARTS
)
_FRAMES = "Tensor? lengths=None, bool reverse=False"


def scan(
    step: Callable[[Tensor, list[Tensor]], Sequence[Tensor]],
    from_x: Tensor,
    state: Sequence[Tensor],
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The steps of a layer over all frames; see ``reference_recurrent``.

    Args:
        step: Takes the x-part of the gates [B, N] and the state; gives the new one, y's part first.
        from_x: f32 [B, T, N].
        state: Its parts, each f32 [B, ...].
        lengths: i64 [B] or None.
        reverse: Whether the last frame comes first.

    Returns:
        y f32 [B, T, P] and the last state.
    """
    now, frames = list(state), from_x.shape[1]
    steps = []
    for t in reversed(range(frames)) if reverse else range(frames):
        new = list(step(from_x[:, t], now))
        if lengths is not None:
            there = (t < lengths)[:, None]
            new = [torch.where(there, *both) for both in zip(new, now, strict=True)]
            steps.append(torch.where(there, new[0], 0.0))
        else:
            steps.append(new[0])
        now = new
    if not steps:
        return from_x.new_empty(from_x.shape[0], 0, now[0].shape[1]), now
    return torch.stack(steps[::-1] if reverse else steps, 1), now


def lstm_layer(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Operand,
    weight_hh: Operand,
    bias: Tensor | None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer, batch first: x f32 [B, T, I] -> y f32 [B, T, H], and the last h and c."""

    def step(from_x: Tensor, state: list[Tensor]) -> tuple[Tensor, Tensor]:
        return lstm_cell(from_x + product(state[0], weight_hh), bias, state[1])

    y, (h, c) = scan(step, product(x, weight_ih), (h, c), lengths, reverse)
    return y, h, c


def lstm_cell(gates: Tensor, bias: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM step: gates f32 [B, 4H] (i, f, g, o), cell f32 [B, H] -> the new h and c."""
    i, f, g, o = (gates if bias is None else gates + bias).chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_layer(
    x: Tensor,
    h: Tensor,
    weight_ih: Operand,
    weight_hh: Operand,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """One GRU layer, batch first: x f32 [B, T, I], h f32 [B, H] -> y f32 [B, T, H], the last h."""

    def step(from_x: Tensor, state: list[Tensor]) -> tuple[Tensor]:
        return (gru_cell(from_x, product(state[0], weight_hh), bias_ih, bias_hh, state[0]),)

    y, (h,) = scan(step, product(x, weight_ih), (h,), lengths, reverse)
    return y, h


def gru_cell(
    from_x: Tensor, from_h: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None, h: Tensor
) -> Tensor:
    """One GRU step: both products f32 [B, 3H] (r, z, n), state f32 [B, H] -> the new state."""
    if bias_ih is not None:
        from_x = from_x + bias_ih
    if bias_hh is not None:
        from_h = from_h + bias_hh
    (r_x, z_x, n_x), (r_h, z_h, n_h) = from_x.chunk(3, dim=1), from_h.chunk(3, dim=1)
    n = torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h)
    return n + torch.sigmoid(z_x + z_h) * (h - n)


@torch.library.custom_op(
    "gq::codebook_lstm",
    mutates_args=(),
    schema=f"(Tensor x, Tensor h0, Tensor c0, {_WEIGHTS}, Tensor? bias, str activation,"
    f" {_OUTLIERS}, {_FRAMES}) -> (Tensor, Tensor, Tensor)",
)
def codebook_lstm(x: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``reference_recurrent.codebook_lstm``: x f32 [B, T, I] -> y f32 [B, T, H], h and c [B, H].

    Behind the inputs: the coded tensors of both weights, bias f32 [4H] or None, activation, the
    outliers of both, lengths i64 [B] or None, reverse.
    """
    ih, hh, (bias, activation), frames = _arguments(1, *rest)
    _check_lstm(x, h0, c0, ih, hh, bias, activation, frames=frames, values=True)
    # The outputs of an operator may not be its inputs, as they would be without any frame.
    states = h0.clone(), c0.clone()
    return lstm_layer(x, *states, operand(ih, activation), operand(hh, activation), bias, *frames)


@codebook_lstm.register_fake
def _(x: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    ih, hh, (bias, activation), frames = _arguments(1, *rest)
    _check_lstm(x, h0, c0, ih, hh, bias, activation, frames=frames, values=False)
    y = x.new_empty([x.shape[0], x.shape[1], h0.shape[1]])
    return y, h0.new_empty(h0.shape), c0.new_empty(c0.shape)


@torch.library.custom_op(
    "gq::codebook_gru",
    mutates_args=(),
    schema=f"(Tensor x, Tensor h0, {_WEIGHTS}, Tensor? bias_ih, Tensor? bias_hh, str activation,"
    f" {_OUTLIERS}, {_FRAMES}) -> (Tensor, Tensor)",
)
def codebook_gru(x: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """``reference_recurrent.codebook_gru``: x f32 [B, T, I] -> y f32 [B, T, H] and h f32 [B, H].

    Behind the inputs: the coded tensors of both weights, two biases f32 [3H] or None, activation,
    the outliers of both, lengths i64 [B] or None, reverse.
    """
    ih, hh, (*biases, activation), frames = _arguments(2, *rest)
    _check_gru(x, h0, ih, hh, *biases, activation, frames=frames, values=True)
    held = operand(ih, activation), operand(hh, activation)
    # The outputs of an operator may not be its inputs, as they would be without any frame.
    return gru_layer(x, h0.clone(), *held, biases[0], biases[1], *frames)


@codebook_gru.register_fake
def _(x: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    ih, hh, (*biases, activation), frames = _arguments(2, *rest)
    _check_gru(x, h0, ih, hh, *biases, activation, frames=frames, values=False)
    return x.new_empty([x.shape[0], x.shape[1], h0.shape[1]]), h0.new_empty(h0.shape)


#: Lengths i64 [B] or None, and whether the last frame comes first.
Frames = tuple[Tensor | None, bool]


def check_frames(op: str, x: Tensor, lengths: Tensor | None, values: bool) -> None:
    """Refuse lengths that are none of x; ``values=False`` leaves out what fake tensors lack."""
    checks.check_lengths(op, x, lengths)
    if values and lengths is not None and lengths.numel():
        checks.check_longest(op, int(lengths.min()), int(lengths.max()), x.shape[1])


def _arguments(
    biases: int, *rest: Any
) -> tuple[WeightTensors, WeightTensors, tuple[Any, ...], Frames]:
    """Both weights, ``biases`` biases and the activation, frames; the last may be left out."""
    behind = 8 + biases + 1
    last = (*rest[behind:], *(None,) * 6)[:6]
    ih, hh = WeightTensors(*rest[:4], *last[:2]), WeightTensors(*rest[4:8], *last[2:4])
    return ih, hh, rest[8:behind], (last[4], bool(last[5]))


def _check_lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    ih: WeightTensors,
    hh: WeightTensors,
    *rest: Any,
    frames: Frames,
    values: bool,
) -> None:
    op = "codebook_lstm"
    ih.check(op, values=values)
    hh.check(op, values=values)
    checks.check_lstm(op, x, h0, c0, ih.indices.shape, hh.indices.shape, *rest)
    check_frames(op, x, frames[0], values)


def _check_gru(
    x: Tensor,
    h0: Tensor,
    ih: WeightTensors,
    hh: WeightTensors,
    *rest: Any,
    frames: Frames,
    values: bool,
) -> None:
    op = "codebook_gru"
    ih.check(op, values=values)
    hh.check(op, values=values)
    checks.check_gru(op, x, h0, ih.indices.shape, hh.indices.shape, *rest)
    check_frames(op, x, frames[0], values)
