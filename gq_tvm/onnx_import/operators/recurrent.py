"""LSTM, GRU and RNN, of whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gq_tvm.onnx_import.layers import Made, layer, parameter
from gq_tvm.onnx_import.lookup import Lookup
from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator
from gq_tvm.ops.torch_float_recurrent import recurrent

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # ONNX's in PyTorch's order
_USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
_NAMES = {"sigmoid", "tanh", "relu", "hardsigmoid", "softsign"}
_OURS = {"hardsigmoid": "hard_sigmoid"}
_LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
_KEPT = (0, 4, 5, 6)  # x, lengths and the states, of a node's inputs


class _Form:
    """What the attributes of a recurrent node say.

    Args:
        node: It.
        kind: ``LSTM``, ``GRU`` or ``RNN``.
        weight: [directions, gates * H, I].
        recurrent: [directions, gates * H, H].

    Raises:
        Error: it asks for what is not computed here.
    """

    def __init__(self, node: Node, kind: str, weight: NDArray, recurrent: NDArray) -> None:
        self.kind = kind
        self.batch_first = bool(node.get("layout", 0))
        self.clip = float(node.get("clip", 0.0))
        direction = node.get("direction", "forward").lower()
        self.backward = {"forward": (False,), "reverse": (True,)}.get(direction, (False, True))
        self.hidden = int(node.get("hidden_size", recurrent.shape[-1]))
        gates, count = len(_GATES[kind]), len(self.backward)
        self.before = kind == "GRU" and not node.get("linear_before_reset", 0)
        wanted = ((count, gates * self.hidden), (count, gates * self.hidden, self.hidden))
        if weight.shape[:2] != wanted[0] or recurrent.shape != wanted[1]:
            raise node.refuse(
                f"has weights {list(weight.shape)} and {list(recurrent.shape)}, which do not fit "
                f"hidden_size={self.hidden}; PyTorch writes such for an LSTM with proj_size, which "
                "ONNX lacks: export that model with torch.export"
            )
        if node.get("input_forget"):
            raise node.refuse("joins its input and forget gates, which is not computed here")
        self.functions = self._functions(node, kind, count)

    def _functions(self, node: Node, kind: str, count: int) -> list[tuple[str, ...]]:
        usual, each = _USUAL[kind], len(_USUAL[kind])
        given = [one.lower() for one in node.get("activations") or usual * count]
        if node.get("activation_alpha") or node.get("activation_beta"):
            alphas, betas = node.get("activation_alpha") or [], node.get("activation_beta") or []
            if set(given) - {"hardsigmoid"} or set(alphas) - {0.2} or set(betas) - {0.5}:
                taken = [one for one in given if one not in ("sigmoid", "tanh", "relu")]
                if taken and not all(abs(one - 0.2) < 1e-6 for one in alphas):
                    raise node.refuse("has activations with constants of their own")
        unknown = sorted(set(given) - _NAMES)
        if unknown:
            raise node.refuse(f"has the activation {unknown[0]}, which is not computed here")
        return [tuple(given[at * each : (at + 1) * each]) for at in range(count)]

    @property
    def is_usual(self) -> bool:
        """Whether PyTorch's layer computes it."""
        return (
            self.backward != (True,)
            and not self.clip
            and not self.before
            and all(one == _USUAL[self.kind] for one in self.functions)
        )


class WholeSequence(nn.Module):
    """A recurrent node.

    Args:
        form: What its attributes say.
        arrays: The weights of each direction in PyTorch's order of gates: weight [gates * H, I],
            recurrent [gates * H, H] and both biases [gates * H] or None.
    """

    def __init__(self, form: _Form, arrays: Sequence[tuple[NDArray, NDArray, Any, Any]]) -> None:
        super().__init__()
        self._form = form
        for suffix, (weight, weight_hh, *biases) in zip(("", "_reverse"), arrays, strict=False):
            self.register_parameter(f"weight_ih_l0{suffix}", parameter(weight))
            self.register_parameter(f"weight_hh_l0{suffix}", parameter(weight_hh))
            for name, bias in zip(("bias_ih_l0", "bias_hh_l0"), biases, strict=True):
                held = None if bias is None else parameter(bias)
                self.register_parameter(f"{name}{suffix}", held)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        hidden: Tensor | None = None,
        cell: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Run it over a sequence.

        Args:
            x: [T, B, I], or [B, T, I] with ``layout`` 1.
            lengths: [B], how many frames of each count.
            hidden: [directions, B, H], or [B, directions, H].
            cell: The same, of an LSTM.

        Returns:
            y [T, directions, B, H], or [B, T, directions, H], and the states like `hidden`.
        """
        form = self._form
        first = x if form.batch_first else x.transpose(0, 1)
        states = (hidden, cell)[: 2 if form.kind == "LSTM" else 1]
        ys, lasts = [], []
        for at, (suffix, back) in enumerate(zip(("", "_reverse"), form.backward, strict=False)):
            given = [
                x.new_zeros([first.shape[0], form.hidden])
                if one is None
                else one[:, at]
                if form.batch_first
                else one[at]
                for one in states
            ]
            usual = form.functions[at] == _USUAL[form.kind]
            names = "" if usual else ",".join(_OURS.get(one, one) for one in form.functions[at])
            y, *last = recurrent(
                first,
                given,
                getattr(self, f"weight_ih_l0{suffix}"),
                getattr(self, f"weight_hh_l0{suffix}"),
                getattr(self, f"bias_ih_l0{suffix}"),
                getattr(self, f"bias_hh_l0{suffix}"),
                cell="gru_reset_before" if form.before else form.kind.lower(),
                lengths=None if lengths is None else lengths.long(),
                reverse=back,
                clip=form.clip,
                functions=names,
            )
            ys.append(y)
            lasts.append(last)
        axis = 1 if form.batch_first else 0
        ends = [torch.stack(one, axis) for one in zip(*lasts, strict=True)]
        whole = torch.stack(ys, 2)  # [B, T, directions, H]
        return (whole if form.batch_first else whole.permute(1, 2, 0, 3), *ends)


class _Plain(nn.Module):
    """A recurrent node that is a layer of PyTorch's, with ONNX's order of axes around it."""

    def __init__(self, form: _Form, inner: nn.Module) -> None:
        super().__init__()
        self._form = form
        self.cell = inner

    def forward(
        self,
        x: Tensor,
        lengths: None = None,
        hidden: Tensor | None = None,
        cell: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """As `WholeSequence.forward`."""
        form, count = self._form, len(self._form.backward)
        if form.batch_first:
            hidden, cell = (None if one is None else one.transpose(0, 1) for one in (hidden, cell))
        state: Any = hidden
        if form.kind == "LSTM" and (hidden is not None or cell is not None):
            like = hidden if hidden is not None else cell
            assert like is not None
            state = tuple(torch.zeros_like(like) if one is None else one for one in (hidden, cell))
        y, ends = self._run(x, state)
        whole = y.reshape([*y.shape[:2], count, form.hidden])
        if form.batch_first:
            return (whole, *(one.transpose(0, 1) for one in ends))
        return (whole.transpose(1, 2), *ends)

    def _run(self, x: Tensor, state: Any) -> tuple[Tensor, Sequence[Tensor]]:
        form, frames = self._form, x.shape[1 if self._form.batch_first else 0]
        if not isinstance(frames, int) or frames:
            y, ends = self.cell(x) if state is None else self.cell(x, state)
            return y, ends if isinstance(ends, tuple) else (ends,)
        count = len(form.backward)  # PyTorch refuses no frame, after which the state is the first
        if state is None:
            batch = x.shape[0 if form.batch_first else 1]
            zeros = x.new_zeros([count, batch, form.hidden])
            state = (zeros,) * (2 if form.kind == "LSTM" else 1)
        y = x.new_zeros([*x.shape[:2], count * form.hidden])
        return y, state if isinstance(state, tuple) else (state,)


def _in_order(array: NDArray, gates: Sequence[int]) -> NDArray:
    parts = np.split(array, len(gates), axis=0)
    return np.concatenate([parts[at] for at in gates], axis=0)


def made_of(node: Node, kind: str, weight: NDArray, hidden: NDArray, bias: NDArray | None) -> Made:
    """The layer of a recurrent node.

    Args:
        node: It.
        kind: ``LSTM``, ``GRU`` or ``RNN``.
        weight: [directions, gates * H, I], gates in ONNX's order, as in the next two.
        hidden: [directions, gates * H, H].
        bias: [directions, 2 * gates * H], or None.
    """
    form, gates = _Form(node, kind, weight, hidden), _GATES[kind]
    if len(node.inputs) > 7 and node.inputs[7]:
        raise node.refuse("has peepholes, which are not computed here")
    arrays: list[tuple[NDArray, NDArray, Any, Any]] = []
    for at in range(len(form.backward)):
        biases: list[Any] = [None, None]
        if bias is not None:
            biases = [_in_order(one, gates) for one in np.split(bias[at], 2)]
        first, second = _in_order(weight[at], gates), _in_order(hidden[at], gates)
        arrays.append((first, second, biases[0], biases[1]))
    lengths = len(node.inputs) > 4 and bool(node.inputs[4])
    kept = tuple(one for one in _KEPT if one < len(node.inputs))
    if not form.is_usual or lengths:
        return Made(WholeSequence(form, arrays), kept)
    inner = _LAYERS[kind](
        weight.shape[2],
        form.hidden,
        bias=bias is not None,
        batch_first=form.batch_first,
        bidirectional=len(form.backward) > 1,
        device="meta",
    )
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    for suffix, each in zip(("", "_reverse"), arrays, strict=False):
        for name, array in zip(names, each, strict=True):
            if array is not None:
                setattr(inner, name + suffix, parameter(array))
    return Made(_Plain(form, inner), kept)


@layer("LSTM", "GRU", "RNN")
def _recurrent(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    first, weight, hidden, bias = [*given, None][:4]
    if first is not None or weight is None or hidden is None:
        return None
    if len(node.inputs) > 3 and node.inputs[3] and bias is None:
        return None
    arrays = [one.dense() if isinstance(one, Lookup) else one for one in (weight, hidden, bias)]
    return made_of(node, node.operator, arrays[0], arrays[1], arrays[2])


@layer("DynamicQuantizeLSTM", domain=MICROSOFT)
def _quantised(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    """The float LSTM that it stands for: what it rounds its inputs to is left out."""
    if given[0] is not None or any(given[at] is None for at in (1, 2, 8, 9, 10, 11)):
        return None

    def dense(codes: NDArray, scale: NDArray, zero: NDArray) -> NDArray:
        form = (codes.shape[0], 1, -1)
        centred = codes.astype(np.float32) - zero.astype(np.float32).reshape(form)
        return (centred * scale.reshape(form)).transpose(0, 2, 1)

    weight, hidden = dense(given[1], given[8], given[9]), dense(given[2], given[10], given[11])
    return made_of(node, "LSTM", weight, hidden, given[3])


@operator("LSTM", "GRU", "RNN")
@operator("DynamicQuantizeLSTM", domain=MICROSOFT)
def _computed(node: Node, *_: Any) -> Any:
    raise node.refuse("has weights that are computed from data, or an input that is a constant")
