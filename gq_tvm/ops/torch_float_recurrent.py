"""The recurrent operator in float in PyTorch, and PyTorch's own in terms of it.

While a program is exported, PyTorch's LSTM, GRU and RNN keep a number of frames that is known at
run time only: PyTorch itself would take them apart frame by frame to learn the shapes they give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import DispatchKey

from gq_tvm.ops import checks_recurrent as checks
from gq_tvm.ops.torch_recurrent import check_frames, scan

_aten = torch.ops.aten


@torch.library.custom_op(
    "gq::recurrent",
    mutates_args=(),
    schema="(Tensor x, Tensor[] state, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih,"
    " Tensor? bias_hh, Tensor? weight_hr, Tensor? lengths, str cell, bool reverse, float clip,"
    " str functions) -> Tensor[]",
)
def _recurrent(
    x: Tensor,
    state: Sequence[Tensor],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    reverse: bool,
    clip: float,
    functions: str,
) -> list[Tensor]:
    weights = weight_ih, weight_hh, bias_ih, bias_hh, weight_hr
    checks.check_recurrent(cell, x, state, *weights, lengths, clip, functions)
    check_frames("recurrent", x, lengths, values=True)
    own = [_limited(_FUNCTIONS[name], clip) for name in checks.functions_of(cell, functions)]

    def step(from_x: Tensor, state: list[Tensor]) -> list[Tensor]:
        return _STEPS[cell](from_x, state, own, weight_hh, bias_hh, weight_hr)

    # The outputs of an operator may not be its inputs, as they would be without any frame.
    first = [one.clone() for one in state]
    y, after = scan(step, F.linear(x, weight_ih, bias_ih), first, lengths, reverse)
    return [y, *after]


@_recurrent.register_fake
def _(x: Tensor, state: Sequence[Tensor], *rest: Any) -> list[Tensor]:
    operands, (cell, _), options = rest[:6], rest[6:8], rest[8:]  # all but `reverse` are checked
    checks.check_recurrent(cell, x, state, *operands, *options)
    y = x.new_empty([x.shape[0], x.shape[1], state[0].shape[1]])
    return [y, *(one.new_empty(one.shape) for one in state)]


def recurrent(
    x: Tensor,
    state: Sequence[Tensor],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    cell: str,
    weight_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    clip: float = 0.0,
    functions: str = "",
) -> list[Tensor]:
    """``reference_recurrent.recurrent``, one operator of an exported program.

    Returns:
        y f32 [B, T, P], and each part of the last state.

    Raises:
        Error: a shape, dtype or option is wrong.
    """
    weights = weight_ih, weight_hh, bias_ih, bias_hh, weight_hr
    return torch.ops.gq.recurrent(x, list(state), *weights, lengths, cell, reverse, clip, functions)


_Function = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[str, _Function] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "softsign": F.softsign,
}


def _limited(function: _Function, clip: float) -> _Function:
    return (lambda x: function(x.clamp(-clip, clip))) if clip else function


def _lstm_step(
    from_x: Tensor,
    state: list[Tensor],
    own: list[_Function],
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
) -> list[Tensor]:
    f, g, of_c = own
    h, c = state
    gate_i, gate_f, gate_g, gate_o = (from_x + F.linear(h, weight, bias)).chunk(4, 1)
    c = f(gate_f) * c + f(gate_i) * g(gate_g)
    h = f(gate_o) * of_c(c)
    return [h if projection is None else F.linear(h, projection), c]


def _gru_step(
    from_x: Tensor,
    state: list[Tensor],
    own: list[_Function],
    weight: Tensor,
    bias: Tensor | None,
    _: Any,
) -> list[Tensor]:
    f, g = own
    r, z, n = from_x.chunk(3, 1)
    of_r, of_z, of_n = F.linear(state[0], weight, bias).chunk(3, 1)
    n = g(n + f(r + of_r) * of_n)
    return [n + f(z + of_z) * (state[0] - n)]


def _gru_reset_before_step(
    from_x: Tensor,
    state: list[Tensor],
    own: list[_Function],
    weight: Tensor,
    bias: Tensor | None,
    _: Any,
) -> list[Tensor]:
    f, g = own
    h, hidden = state[0], state[0].shape[1]
    split = [2 * hidden, hidden]
    weights = weight.split(split)
    biases = (None, None) if bias is None else bias.split(split)
    gates, n = from_x.split(split, 1)
    r, z = f(gates + F.linear(h, weights[0], biases[0])).chunk(2, 1)
    n = g(n + F.linear(r * h, weights[1], biases[1]))
    return [n + z * (h - n)]


def _rnn_step(
    from_x: Tensor,
    state: list[Tensor],
    own: list[_Function],
    weight: Tensor,
    bias: Tensor | None,
    _: Any,
) -> list[Tensor]:
    return [own[0](from_x + F.linear(state[0], weight, bias))]


_STEPS: dict[str, Callable[..., list[Tensor]]] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "gru_reset_before": _gru_reset_before_step,
    "rnn": _rnn_step,
}

#: PyTorch's operators: the cell and its functions.
_OPERATORS = {
    _aten.lstm.input: ("lstm", ""),
    _aten.gru.input: ("gru", ""),
    _aten.rnn_tanh.input: ("rnn", ""),
    _aten.rnn_relu.input: ("rnn", "relu"),
}


def _stack(cell: str, functions: str) -> Callable[..., tuple[Tensor, ...]]:
    """PyTorch's operator in terms of ours, for a program that is only run."""

    def stack(
        x: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        states = list(hx) if checks.CELLS[cell].states > 1 else [hx]
        each = len(params) // (num_layers * (1 + bidirectional))
        x = x if batch_first else x.transpose(0, 1)
        ends: list[list[Tensor]] = []
        for _ in range(num_layers):
            outputs = []
            for reverse in (False, True)[: 1 + bidirectional]:
                number = len(ends)
                w_ih, w_hh, *more = params[each * number : each * (number + 1)]
                biases = more[:2] if has_biases else [None, None]
                y, *last = recurrent(
                    x,
                    [one[number] for one in states],
                    w_ih,
                    w_hh,
                    *biases,
                    cell=cell,
                    weight_hr=more[-1] if each % 2 else None,
                    reverse=reverse,
                    functions=functions,
                )
                outputs.append(y)
                ends.append(last)
            x = torch.cat(outputs, 2) if bidirectional else outputs[0]
        y = x if batch_first else x.transpose(0, 1)
        return y, *(torch.stack(one) for one in zip(*ends, strict=True))

    return stack


#: For ``run_decompositions``: PyTorch's operators in terms of ours.
DECOMPOSITIONS = {operator: _stack(*how) for operator, how in _OPERATORS.items()}


def _keep_frames(operator: Any) -> None:
    """Give a PyTorch operator a rule of shapes for numbers of frames that are not known."""
    own = operator.py_kernels[DispatchKey.CompositeImplicitAutograd]

    def shapes(x: Tensor, hx: Any, *rest: Any) -> tuple[Tensor, ...]:
        *_, bidirectional, batch_first = rest
        if not torch.compiler.is_exporting() or isinstance(x.shape[1 if batch_first else 0], int):
            return own(x, hx, *rest)
        states = list(hx) if isinstance(hx, list | tuple) else [hx]
        width = states[0].shape[-1] * (1 + bidirectional)
        return x.new_empty([*x.shape[:-1], width]), *(one.new_empty(one.shape) for one in states)

    operator.py_kernels[DispatchKey.CompositeImplicitAutograd] = shapes
    operator._dispatch_cache.clear()


for _operator in _OPERATORS:
    _keep_frames(_operator)
