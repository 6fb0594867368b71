"""What ``nn.LSTM`` and ``nn.GRU`` do around their layers: argument layouts, state, stacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gq_tvm.errors import Error

#: The state of a layer, each [B, H]: (h, c) of an LSTM, (h,) of a GRU.
State = tuple[Tensor, ...]


def weights_of_layer(number: int) -> list[str]:
    """What ``nn.LSTM`` and ``nn.GRU`` call the two weights of a layer."""
    return [f"weight_{kind}_l{number}" for kind in ("ih", "hh")]


def biases_of_layer(number: int) -> list[str]:
    """What they call its two biases."""
    return [f"bias_{kind}_l{number}" for kind in ("ih", "hh")]


def float_lstm(
    x: Tensor, state: State, parameters: list[Tensor], training: bool = False
) -> tuple[Tensor, State]:
    """One layer of ``nn.LSTM`` as PyTorch computes it.

    Args:
        x: f32 [B, T, I].
        state: (h, c), each f32 [B, H].
        parameters: its two weights, and its two biases if it has any.
        training: whether a gradient is wanted.

    Returns:
        y f32 [B, T, H] and the state after.
    """
    parts = [part.unsqueeze(0) for part in state]
    biased = len(parameters) > 2
    y, h, c = torch._VF.lstm(x, parts, parameters, biased, 1, 0.0, training, False, True)
    return y, (h.squeeze(0), c.squeeze(0))


def float_gru(
    x: Tensor, state: State, parameters: list[Tensor], training: bool = False
) -> tuple[Tensor, State]:
    """One layer of ``nn.GRU`` as PyTorch computes it; see ``float_lstm``."""
    h = state[0].unsqueeze(0)
    biased = len(parameters) > 2
    y, h = torch._VF.gru(x, h, parameters, biased, 1, 0.0, training, False, True)
    return y, (h.squeeze(0),)


class Layer(Protocol):
    """One layer: x [B, T, I], its state, its number -> y [B, T, H] and its state after."""

    def __call__(self, x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        """Run one layer."""


def run_layers(
    layer: Layer,
    x: Tensor,
    state: Sequence[Tensor] | None,
    names: str,
    num_layers: int,
    hidden_size: int,
    batch_first: bool,
) -> tuple[Tensor, State]:
    """Run ``layer`` number 0, 1, ... with the layouts of ``nn.LSTM`` and ``nn.GRU``.

    Args:
        layer: computes one layer, batch first.
        x: f32 [B, T, I] if ``batch_first``, else [T, B, I]; [T, I] without a batch.
        state: its parts, each f32 [L, B, H], or [L, H] without a batch; None: zeros.
        names: a letter for each part of the state: ``"hc"`` or ``"h"``.
        num_layers: L.
        hidden_size: H.
        batch_first: which layout x and y have.

    Returns:
        y in the layout of x, and the parts of the state.

    Raises:
        Error: x is a PackedSequence or has another number of axes, or the state another shape.
    """
    if isinstance(x, PackedSequence):
        raise Error(
            "quantised LSTM or GRU: give padded frames instead of a PackedSequence; in one "
            "direction padding at the end does not change the frames before it."
        )
    batched = x.dim() == 3
    if x.dim() not in (2, 3):
        raise Error(f"quantised LSTM or GRU: x must have 2 or 3 axes, got {x.dim()}.")
    if not batched:
        x = x.unsqueeze(0)
    elif not batch_first:
        x = x.transpose(0, 1)
    if state is None:
        parts = [x.new_zeros(num_layers, x.shape[0], hidden_size)] * len(names)
    else:
        parts = [part if batched else part.unsqueeze(1) for part in state]
    for name, part in zip(names, parts, strict=True):
        if part.dim() != 3 or part.shape[0] != num_layers or part.shape[2] != hidden_size:
            raise Error(
                f"quantised LSTM or GRU: the state {name} must have shape "
                f"[{num_layers}, batch, {hidden_size}], got {list(part.shape)}."
            )
    after = []
    for number in range(num_layers):
        x, last = layer(x, tuple(part[number] for part in parts), number)
        after.append(last)
    ends = tuple(torch.stack(part) for part in zip(*after, strict=True))
    if not batched:
        return x.squeeze(0), tuple(part.squeeze(1) for part in ends)
    return x if batch_first else x.transpose(0, 1), ends


def each_layer(
    stack: nn.LSTM | nn.GRU,
    observer: Callable[[Tensor], object],
    input: Tensor,
    hx: tuple[Tensor, Tensor] | Tensor | None = None,
) -> None:
    """Tell ``observer`` what each layer of a float stack of one direction gives: y f32 [B, T, H].

    The arguments behind it are the stack's own.
    """
    lstm = isinstance(stack, nn.LSTM)

    def layer(x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        names = weights_of_layer(number) + (biases_of_layer(number) if stack.bias else [])
        parameters = [getattr(stack, name) for name in names]
        y, after = (float_lstm if lstm else float_gru)(x, state, parameters)
        observer(y)
        return y, after

    state = (hx,) if isinstance(hx, Tensor) else hx
    names = "hc" if lstm else "h"
    run_layers(layer, input, state, names, stack.num_layers, stack.hidden_size, stack.batch_first)
