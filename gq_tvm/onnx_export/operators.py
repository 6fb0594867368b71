"""The operators of ``torch.ops.gq`` as nodes that PyTorch's exporter leaves as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gq_tvm.onnx_functions import DOMAIN, INPUTS, OPERATORS, STATE
from gq_tvm.ops import torch_float_recurrent
from gq_tvm.ops.checks_recurrent import CELLS, LAYERS
from gq_tvm.ops.torch_ops import sizes_out

_Given = Mapping[str, Any]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """For ``run_decompositions``: our operators as nodes, PyTorch's recurrent ones as ours."""
    ours = {getattr(torch.ops.gq, name).default: _as_node(name) for name in OPERATORS}
    return {**torch_float_recurrent.DECOMPOSITIONS, **ours}


def _as_node(name: str) -> Callable[..., Any]:
    schema = getattr(torch.ops.gq, name).default._schema
    single = len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"
    shapes_of, hidden_of = _SHAPES[name], _HIDDEN.get(name)

    def node(*args: Any, **kwargs: Any) -> Any:
        given: dict[str, Any] = {}
        for at, argument in enumerate(schema.arguments):
            value = (
                args[at] if at < len(args) else kwargs.get(argument.name, argument.default_value)
            )
            parts = {argument.name: value}
            if argument.name == "state":
                parts = dict(zip(STATE, value, strict=False))
            given |= {one: part for one, part in parts.items() if part is not None}
        tensors = {one: value for one, value in given.items() if isinstance(value, Tensor)}
        options = {one: _plain(value) for one, value in given.items() if one not in tensors}
        if hidden_of is not None:
            options["hidden_size"] = hidden_of(given)
        shapes = shapes_of(given)
        outputs = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{name}",
            list(tensors.values()),
            {**options, INPUTS: list(tensors)},
            dtypes=[torch.float32] * len(shapes),
            shapes=shapes,
            version=1,
        )
        return outputs[0] if single else list(outputs)

    return node


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _of_linear(given: _Given) -> list[Sequence[Any]]:
    return [[*given["x"].shape[:-1], len(given["indices"])]]


def _of_embedding(given: _Given) -> list[Sequence[Any]]:
    return [[*given["ids"].shape, given["indices"].shape[1]]]


def _of_convolution(given: _Given) -> list[Sequence[Any]]:
    rows, _, *taps = given["indices"].shape
    options = [given[one] for one in ("stride", "padding", "dilation")]
    options = [[one] if isinstance(one, int) else one for one in options]
    return [[given["x"].shape[0], rows, *sizes_out(given["x"], taps, *options)]]


def _of_recurrent(given: _Given) -> list[Sequence[Any]]:
    states = [given[one].shape for one in STATE if one in given]
    return [[*given["x"].shape[:2], states[0][1]], *states]


_SHAPES: dict[str, Callable[[_Given], list[Sequence[Any]]]] = {
    "codebook_linear": _of_linear,
    "codebook_conv1d": _of_convolution,
    "codebook_conv2d": _of_convolution,
    "codebook_embedding": _of_embedding,
    **dict.fromkeys((f"codebook_{name}" for name in LAYERS), _of_recurrent),
    "recurrent": _of_recurrent,
}


def _hidden_of(gates: int) -> Callable[[_Given], int]:
    return lambda given: len(given["indices_hh"]) // gates


_HIDDEN: dict[str, Callable[[_Given], int]] = {
    **{f"codebook_{name}": _hidden_of(kind.gates) for name, kind in LAYERS.items()},
    "recurrent": lambda given: len(given["weight_hh"]) // CELLS[given["cell"]].gates,
}
