"""What PyTorch's recurrent layers do around their products: names, layouts, state, stacking.

A stack is made of layers in one direction, a cell is one. Each is called by how the names of its
weights end: ``"_l0"``, ``"_l0_reverse"``, ``"_l1"``; ``""`` of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gq_tvm.errors import Error
from gq_tvm.ops.checks_recurrent import LAYERS

#: PyTorch's stacks of recurrent layers, and cells.
Recurrent = nn.RNNBase | nn.RNNCellBase
#: The state of a layer: (h [B, P], c [B, H]) of an LSTM, else (h,).
State = tuple[Tensor, ...]


def operator_of(layer: nn.Module) -> str:
    """What computes a layer of a stack, or a cell: one of ``ops.checks_recurrent.LAYERS``."""
    if isinstance(layer, nn.LSTM):
        return "projected_lstm" if layer.proj_size else "lstm"
    if isinstance(layer, nn.LSTMCell):
        return "lstm"
    if isinstance(layer, nn.GRU | nn.GRUCell):
        return "gru"
    assert isinstance(layer, nn.RNN | nn.RNNCell)
    return f"rnn_{layer.nonlinearity}"


def endings(layer: nn.Module) -> list[str]:
    """The layers of a stack in the order of their states, or that of a cell."""
    if isinstance(layer, nn.RNNCellBase):
        return [""]
    assert isinstance(layer, nn.RNNBase)
    directions = ("", "_reverse")[: 1 + layer.bidirectional]
    return [f"_l{number}{one}" for number in range(layer.num_layers) for one in directions]


def is_reverse(ending: str) -> bool:
    """Whether a layer goes from the last frame to the first."""
    return ending.endswith("_reverse")


def is_first(ending: str) -> bool:
    """Whether a layer has the inputs of the stack."""
    return not ending or ending.removesuffix("_reverse") == "_l0"


def weights_of(layer: nn.Module, ending: str) -> list[str]:
    """What PyTorch calls the weights of one layer."""
    return [f"weight{part}{ending}" for part in LAYERS[operator_of(layer)].parts]


def biases_of(ending: str) -> list[str]:
    """What it calls its two biases."""
    return [f"bias_{part}{ending}" for part in ("ih", "hh")]


def deployed_biases_of(layer: nn.Module, ending: str) -> list[str]:
    """What the biases that are left are called: the same two, or their sum."""
    kept = LAYERS[operator_of(layer)].biases
    # A cell says by ``bias`` whether it has any.
    return [f"bias{part}{ending}" if part or ending else "summed_bias" for part in kept]


def float_layer(
    name: str,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    reverse: bool,
    training: bool = False,
) -> tuple[Tensor, State]:
    """One layer as PyTorch computes it.

    Args:
        name: one of ``ops.checks_recurrent.LAYERS``.
        x: f32 [B, T, I].
        state: its parts, f32 [B, P] and so on.
        weights: two, or three with a projection.
        biases: two or none.
        reverse: whether the last frame comes first.
        training: whether a gradient is wanted.

    Returns:
        y f32 [B, T, P] and the state after.
    """
    kind = LAYERS[name]
    function = torch._VF.lstm if kind.cell == "lstm" else getattr(torch._VF, name)
    parts = [part.unsqueeze(0) for part in state]
    given: Any = parts if len(parts) > 1 else parts[0]
    parameters = [*weights[:2], *biases, *weights[2:]]
    options = bool(biases), 1, 0.0, training, False, True
    y, *after = function(x.flip(1) if reverse else x, given, parameters, *options)
    return y.flip(1) if reverse else y, tuple(part.squeeze(0) for part in after)


class Layer(Protocol):
    """One layer: x [B, T, I], its state, its ending -> y [B, T, P] and its state after."""

    def __call__(self, x: Tensor, state: State, ending: str) -> tuple[Tensor, State]:
        """Run one layer."""


def run(layer: Layer, of: nn.Module, x: Tensor, hx: Any = None, dropout: float = 0.0) -> Any:
    """What a stack or a cell of PyTorch's gives, its layers computed by ``layer``.

    Args:
        layer: computes one layer, batch first.
        of: the stack or cell.
        x: its input, in its layout.
        hx: its state, or None for zeros.
        dropout: the share of what a layer gives that is dropped before the next.

    Returns:
        As ``of(x, hx)``.

    Raises:
        Error: x is a PackedSequence or has another number of axes, or the state another shape.
    """
    state = (hx,) if isinstance(hx, Tensor) else hx
    if isinstance(of, nn.RNNBase):
        y, after = _stack(layer, of, x, state, dropout)
        return y, after if len(after) > 1 else after[0]
    assert isinstance(of, nn.RNNCellBase)
    after = _cell(layer, of, x, state)
    return after if len(after) > 1 else after[0]


def _stack(
    layer: Layer, of: nn.RNNBase, x: Tensor, state: Sequence[Tensor] | None, dropout: float
) -> tuple[Tensor, State]:
    name = _named(of)
    if isinstance(x, PackedSequence):
        raise Error(
            f"quantised {name}: give padded frames instead of a PackedSequence; in one direction "
            "padding at the end does not change the frames before it, in two directions give "
            "sequences of one length together."
        )
    batched = x.dim() == 3
    if x.dim() not in (2, 3):
        raise Error(f"quantised {name}: x must have 2 or 3 axes, got {x.dim()}.")
    if not batched:
        x = x.unsqueeze(0)
    elif not of.batch_first:
        x = x.transpose(0, 1)
    names, layers = LAYERS[operator_of(of)].states, endings(of)
    sizes = (of.proj_size or of.hidden_size, of.hidden_size)[: len(names)]
    if state is None:
        parts = [x.new_zeros(len(layers), x.shape[0], size) for size in sizes]
    else:
        parts = [part if batched else part.unsqueeze(1) for part in state]
    for letter, part, size in zip(names, parts, sizes, strict=True):
        if part.dim() != 3 or part.shape[0] != len(layers) or part.shape[2] != size:
            raise Error(
                f"quantised {name}: the state {letter} must have shape "
                f"[{len(layers)}, batch, {size}], got {list(part.shape)}."
            )
    after: list[State] = []
    directions = 1 + of.bidirectional
    while len(after) < len(layers):
        if after and dropout:
            x = F.dropout(x, dropout)
        outputs = []
        for number in range(len(after), len(after) + directions):
            y, last = layer(x, tuple(part[number] for part in parts), layers[number])
            outputs.append(y)
            after.append(last)
        x = torch.cat(outputs, -1) if of.bidirectional else outputs[0]
    ends = tuple(torch.stack(part) for part in zip(*after, strict=True))
    if not batched:
        return x.squeeze(0), tuple(part.squeeze(1) for part in ends)
    return x if of.batch_first else x.transpose(0, 1), ends


def _cell(layer: Layer, of: nn.RNNCellBase, x: Tensor, state: Sequence[Tensor] | None) -> State:
    name, batched = _named(of), x.dim() == 2
    if x.dim() not in (1, 2):
        raise Error(f"quantised {name}: x must have 1 or 2 axes, got {x.dim()}.")
    x = x if batched else x.unsqueeze(0)
    names = LAYERS[operator_of(of)].states
    if state is None:
        parts = [x.new_zeros(x.shape[0], of.hidden_size) for _ in names]
    else:
        parts = [part if batched else part.unsqueeze(0) for part in state]
    for letter, part in zip(names, parts, strict=True):
        if part.dim() != 2 or part.shape[1] != of.hidden_size:
            raise Error(
                f"quantised {name}: the state {letter} must have shape "
                f"[batch, {of.hidden_size}], got {list(part.shape)}."
            )
    _, after = layer(x.unsqueeze(1), tuple(parts), "")
    return after if batched else tuple(part.squeeze(0) for part in after)


def _named(layer: nn.Module) -> str:
    """The class of PyTorch's that a layer is of."""
    return next(one.__name__ for one in type(layer).__mro__ if one.__module__.startswith("torch."))


def each_layer(
    stack: nn.Module, observer: Callable[[Tensor], object], input: Tensor, hx: Any = None
) -> None:
    """Tell ``observer`` what each layer of a float stack gives: y f32 [B, T, P].

    The arguments behind it are the stack's own.
    """
    name = operator_of(stack)

    def layer(x: Tensor, state: State, ending: str) -> tuple[Tensor, State]:
        weights = [getattr(stack, one) for one in weights_of(stack, ending)]
        biases = [getattr(stack, one) for one in biases_of(ending) if stack.bias]
        y, after = float_layer(name, x, state, weights, biases, is_reverse(ending))
        observer(y)
        return y, after

    run(layer, stack, input, hx)
