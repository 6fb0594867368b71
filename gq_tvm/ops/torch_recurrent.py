"""The recurrent codebook operators in PyTorch; see ``torch_ops``, which imports this."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gq_tvm.ops import checks
from gq_tvm.ops.torch_weight import Operand, WeightTensors, operand, product

_PARTS = ("_ih", "_hh")
_WEIGHTS = ", ".join(
    f"Tensor indices{part}, Tensor codebook{part}, Tensor? scale{part}, Tensor? zero{part}"
    for part in _PARTS
)
_OUTLIERS = ", ".join(
    f"Tensor? outlier_positions{part}=None, Tensor? outlier_values{part}=None" for part in _PARTS
)


def lstm_layer(
    x: Tensor, h: Tensor, c: Tensor, weight_ih: Operand, weight_hh: Operand, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer, batch first: x f32 [B, T, I] -> y f32 [B, T, H], and the last h and c."""
    steps = []
    for gates_x in product(x, weight_ih).unbind(1):
        h, c = lstm_cell(gates_x + product(h, weight_hh), bias, c)
        steps.append(h)
    y = torch.stack(steps, 1) if steps else x.new_empty(x.shape[0], 0, h.shape[1])
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
) -> tuple[Tensor, Tensor]:
    """One GRU layer, batch first: x f32 [B, T, I], h f32 [B, H] -> y f32 [B, T, H], the last h."""
    steps = []
    for from_x in product(x, weight_ih).unbind(1):
        h = gru_cell(from_x, product(h, weight_hh), bias_ih, bias_hh, h)
        steps.append(h)
    y = torch.stack(steps, 1) if steps else x.new_empty(x.shape[0], 0, h.shape[1])
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
    f" {_OUTLIERS}) -> (Tensor, Tensor, Tensor)",
)
def codebook_lstm(x: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``reference_recurrent.codebook_lstm``: x f32 [B, T, I] -> y f32 [B, T, H], h and c [B, H].

    Behind the inputs: the coded tensors of both weights, bias f32 [4H] or None, activation, the
    outliers of both.
    """
    ih, hh, (bias, activation) = _weights(1, *rest)
    _check_lstm(x, h0, c0, ih, hh, bias, activation, values=True)
    # The outputs of an operator may not be its inputs, as they would be without any frame.
    states = h0.clone(), c0.clone()
    return lstm_layer(x, *states, operand(ih, activation), operand(hh, activation), bias)


@codebook_lstm.register_fake
def _(x: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    ih, hh, (bias, activation) = _weights(1, *rest)
    _check_lstm(x, h0, c0, ih, hh, bias, activation, values=False)
    y = x.new_empty([x.shape[0], x.shape[1], h0.shape[1]])
    return y, h0.new_empty(h0.shape), c0.new_empty(c0.shape)


@torch.library.custom_op(
    "gq::codebook_gru",
    mutates_args=(),
    schema=f"(Tensor x, Tensor h0, {_WEIGHTS}, Tensor? bias_ih, Tensor? bias_hh, str activation,"
    f" {_OUTLIERS}) -> (Tensor, Tensor)",
)
def codebook_gru(x: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """``reference_recurrent.codebook_gru``: x f32 [B, T, I] -> y f32 [B, T, H] and h f32 [B, H].

    Behind the inputs: the coded tensors of both weights, two biases f32 [3H] or None, activation,
    the outliers of both.
    """
    ih, hh, (bias_ih, bias_hh, activation) = _weights(2, *rest)
    _check_gru(x, h0, ih, hh, bias_ih, bias_hh, activation, values=True)
    held = operand(ih, activation), operand(hh, activation)
    # The outputs of an operator may not be its inputs, as they would be without any frame.
    return gru_layer(x, h0.clone(), *held, bias_ih, bias_hh)


@codebook_gru.register_fake
def _(x: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    ih, hh, (bias_ih, bias_hh, activation) = _weights(2, *rest)
    _check_gru(x, h0, ih, hh, bias_ih, bias_hh, activation, values=False)
    return x.new_empty([x.shape[0], x.shape[1], h0.shape[1]]), h0.new_empty(h0.shape)


def _weights(biases: int, *rest: Any) -> tuple[WeightTensors, WeightTensors, tuple[Any, ...]]:
    """Both weights, and ``biases`` biases and the activation; outliers may be left out."""
    behind = 8 + biases + 1
    ih = WeightTensors(*rest[:4], *rest[behind : behind + 2])
    hh = WeightTensors(*rest[4:8], *rest[behind + 2 :])
    return ih, hh, rest[8:behind]


def _check_lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    ih: WeightTensors,
    hh: WeightTensors,
    *rest: Any,
    values: bool,
) -> None:
    op = "codebook_lstm"
    ih.check(op, values=values)
    hh.check(op, values=values)
    checks.check_lstm(op, x, h0, c0, ih.indices.shape, hh.indices.shape, *rest)


def _check_gru(
    x: Tensor, h0: Tensor, ih: WeightTensors, hh: WeightTensors, *rest: Any, values: bool
) -> None:
    op = "codebook_gru"
    ih.check(op, values=values)
    hh.check(op, values=values)
    checks.check_gru(op, x, h0, ih.indices.shape, hh.indices.shape, *rest)
