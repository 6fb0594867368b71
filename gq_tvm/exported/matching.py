"""Which nodes of a program are layers, and of which weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from gq_tvm.exported.known import Known, Values

_aten = torch.ops.aten


@dataclass(frozen=True)
class Match:
    """A node that is a layer.

    Attributes:
        node: It.
        kind: The layer of PyTorch's.
        options: Of the layer's constructor, by name.
        weights: What is known, by the name of the layer's parameter.
        inputs: The tensors the layer is given.
    """

    node: fx.Node
    kind: type[nn.Module]
    options: tuple[tuple[str, Any], ...]
    weights: tuple[tuple[str, Known], ...]
    inputs: tuple[fx.Node, ...]


def match(node: fx.Node, values: Values) -> Match | None:
    """The layer that a node is, None if it is none."""
    found = _MATCHES.get(node.target) if node.op == "call_function" else None
    return found(node, values) if found else None


def _arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an operator by name, those left out too."""
    assert isinstance(node.target, torch._ops.OpOverload)
    wanted = node.target._schema.arguments
    given = {one.name: one.default_value for one in wanted if one.has_default_value()}
    given |= dict(zip([one.name for one in wanted], node.args, strict=False))
    return given | node.kwargs


def _made(
    node: fx.Node,
    kind: type[nn.Module],
    options: dict[str, Any],
    weights: dict[str, Known | None],
    *inputs: Any,
) -> Match | None:
    """The match, unless a weight is missing or no parameter is in it, or an input is known."""
    known = {name: one for name, one in weights.items() if one is not None}
    first = next(iter(weights.values()))
    if first is None or not any(one.targets for one in known.values()):
        return None
    if not all(isinstance(one, fx.Node) for one in inputs):
        return None
    return Match(node, kind, tuple(options.items()), tuple(known.items()), inputs)


def _linear_of(
    node: fx.Node, values: Values, x: Any, weight: Known | None, bias: Any
) -> Match | None:
    if weight is None or len(weight.shape) != 2 or values.of(x) is not None or not weight.targets:
        return None
    rows, columns = weight.shape
    its_bias = values.of(bias)
    if bias is not None and (its_bias is None or its_bias.shape != (rows,)):
        return None
    options = {"in_features": columns, "out_features": rows, "bias": bias is not None}
    return _made(node, nn.Linear, options, {"weight": weight, "bias": its_bias}, x)


def _linear(node: fx.Node, values: Values) -> Match | None:
    given = _arguments(node)
    return _linear_of(node, values, given["input"], values.of(given["weight"]), given["bias"])


def _transposed(value: Any, values: Values) -> Known | None:
    known = values.of(value)
    return known.transposed() if known is not None and len(known.shape) == 2 else None


def _matmul(node: fx.Node, values: Values) -> Match | None:
    x, weight = node.args
    return _linear_of(node, values, x, _transposed(weight, values), None)


def _addmm(node: fx.Node, values: Values) -> Match | None:
    given = _arguments(node)
    if given["beta"] != 1 or given["alpha"] != 1:
        return None
    weight = _transposed(given["mat2"], values)
    return _linear_of(node, values, given["mat1"], weight, given["self"])


#: By axes of the weight.
_CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d}


def _each(sizes: Sequence[Any], axes: int) -> tuple[Any, ...]:
    """A size for each axis; PyTorch lets one stand for all."""
    return tuple(sizes) * axes if len(sizes) == 1 else tuple(sizes)


def _conv(node: fx.Node, values: Values) -> Match | None:
    given = _arguments(node)
    weight = values.of(given["weight"])
    if weight is None or len(weight.shape) not in _CONVOLUTIONS:
        return None
    if given.get("transposed"):
        return _conv_transpose(node, values)
    options = {
        "in_channels": weight.shape[1] * given["groups"],
        "out_channels": weight.shape[0],
        "padding": given["padding"],
    }
    return _convolution(node, values, _CONVOLUTIONS[len(weight.shape)], options)


def _conv_transpose(node: fx.Node, values: Values) -> Match | None:
    given = _arguments(node)
    weight = values.of(given["weight"])
    if weight is None or len(weight.shape) != 3:
        return None
    options = {
        "in_channels": weight.shape[0],
        "out_channels": weight.shape[1] * given["groups"],
        "padding": given["padding"],
        "output_padding": given["output_padding"],
    }
    return _convolution(node, values, nn.ConvTranspose1d, options)


def _convolution(
    node: fx.Node, values: Values, kind: type[nn.Module], options: dict[str, Any]
) -> Match | None:
    """A convolution with the options in which its kinds differ."""
    given = _arguments(node)
    weight, bias = values.of(given["weight"]), values.of(given["bias"])
    assert weight is not None
    if given["bias"] is not None and bias is None:
        return None
    options |= {
        "kernel_size": weight.shape[2:],
        "stride": given["stride"],
        "dilation": given["dilation"],
        "groups": given["groups"],
        "bias": bias is not None,
    }
    axes = len(weight.shape) - 2
    for name, one in options.items():
        if isinstance(one, Sequence) and not isinstance(one, str):
            options[name] = _each(one, axes)
    sizes = [size for one in options.values() if isinstance(one, tuple) for size in one]
    if not all(isinstance(one, int) for one in sizes):
        return None
    return _made(node, kind, options, {"weight": weight, "bias": bias}, given["input"])


def _embedding(node: fx.Node, values: Values) -> Match | None:
    given = _arguments(node)
    weight = values.of(given["weight"])
    if weight is None or len(weight.shape) != 2:
        return None
    options = {
        "num_embeddings": weight.shape[0],
        "embedding_dim": weight.shape[1],
        "padding_idx": None if given["padding_idx"] < 0 else given["padding_idx"],
    }
    return _made(node, nn.Embedding, options, {"weight": weight}, given["indices"])


def _recurrent(
    kind: type[nn.RNNBase], gates: int, **more: Any
) -> Callable[[fx.Node, Values], Match | None]:
    def matched(node: fx.Node, values: Values) -> Match | None:
        given = _arguments(node)
        state = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
        directions = 2 if given["bidirectional"] else 1
        weights = [values.of(one) for one in given["params"]]
        each, rest = divmod(len(weights), given["num_layers"] * directions)
        if rest or any(one is None for one in weights):
            return None
        first, projection = weights[0], each == (5 if given["has_biases"] else 3)
        assert first is not None
        sizes = {"input_size": first.shape[1], "hidden_size": first.shape[0] // gates}
        if projection:
            last = weights[each - 1]
            assert last is not None
            sizes["proj_size"] = last.shape[0]
        names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * given["has_biases"]
        names += ["weight_hr"] * projection
        ends = ("", "_reverse")[:directions]
        named = [
            f"{name}_l{layer}{end}"
            for layer in range(given["num_layers"])
            for end in ends
            for name in names
        ]
        options = {
            **sizes,
            "num_layers": given["num_layers"],
            "bias": given["has_biases"],
            "batch_first": given["batch_first"],
            "bidirectional": given["bidirectional"],
            **more,
        }
        return _made(
            node, kind, options, dict(zip(named, weights, strict=True)), given["input"], *state
        )

    return matched


_MATCHES: dict[Any, Callable[[fx.Node, Values], Match | None]] = {
    _aten.linear.default: _linear,
    _aten.matmul.default: _matmul,
    _aten.mm.default: _matmul,
    _aten.addmm.default: _addmm,
    _aten.conv1d.default: _conv,
    _aten.conv1d.padding: _conv,
    _aten.conv2d.default: _conv,
    _aten.conv2d.padding: _conv,
    _aten.convolution.default: _conv,
    _aten.conv_transpose1d.default: _conv_transpose,
    _aten.embedding.default: _embedding,
    _aten.lstm.input: _recurrent(nn.LSTM, 4),
    _aten.gru.input: _recurrent(nn.GRU, 3),
    _aten.rnn_tanh.input: _recurrent(nn.RNN, 1, nonlinearity="tanh"),
    _aten.rnn_relu.input: _recurrent(nn.RNN, 1, nonlinearity="relu"),
}


def call(layer: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """Call a layer as the operator it stands for is called, with its results."""
    if isinstance(layer, nn.LSTM):
        y, (h, c) = layer(inputs[0], inputs[1:])
        return y, h, c
    return layer(*inputs)
