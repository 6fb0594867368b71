"""Layers that gq-tvm wrote itself, as calls of functions (``onnx_functions``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gq_tvm.onnx_functions import DOMAIN, INPUTS, OPERATORS, STATE, unpack
from gq_tvm.onnx_import.layers import Made, layer, parameter
from gq_tvm.onnx_import.registry import Node, operator
from gq_tvm.onnx_import.values import from_numpy
from gq_tvm.ops.checks import bits_of

_ARRAYS = ("indices", "codebook", "scale", "zero", "outlier")


class Operator(nn.Module):
    """An operator of ``torch.ops.gq`` with what it holds.

    Args:
        name: Of the operator.
        given: What it is called with, in this order, by the names of its arguments.
        held: Its arrays; those of weights in codebooks are buffers.
        options: Its other arguments.
    """

    def __init__(
        self,
        name: str,
        given: Sequence[str],
        held: Mapping[str, NDArray],
        options: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self._operator = getattr(torch.ops.gq, name).default
        self._given = list(given)
        self._held = list(held)
        self._options = dict(options)
        for one, array in held.items():
            if one.startswith(_ARRAYS):
                self.register_buffer(one, from_numpy(array))
            else:
                self.register_parameter(one, parameter(array))

    def forward(self, *inputs: Tensor) -> Any:
        """What the operator gives."""
        values: dict[str, Any] = dict(zip(self._given, inputs, strict=True))
        values |= {one: getattr(self, one) for one in self._held} | self._options
        values["state"] = [values[one] for one in STATE if one in values]
        args = []
        for one in self._operator._schema.arguments:
            value = values.get(one.name, one.default_value)
            args.append(bool(value) if str(one.type) == "bool" else value)
        results = self._operator(*args)
        return results if isinstance(results, Tensor) else tuple(results)


@layer(*OPERATORS, domain=DOMAIN)
def _ours(node: Node, constants: Sequence[Any], _: Any) -> Made | None:
    names = node.get(INPUTS)
    held = {
        name: array
        for name, array in zip(names, constants, strict=True)
        if array is not None and name.startswith((*_ARRAYS, "bias", "weight"))
    }
    for name in (one for one in held if one.startswith("indices")):
        bits = bits_of(held[name.replace("indices", "codebook")])
        held[name] = unpack(held[name], bits, node.get(f"{name}_shape"))
    given = [(at, name) for at, name in enumerate(names) if name not in held]
    made = Operator(node.operator, [name for _, name in given], held, node.attributes)
    return Made(made, tuple(at for at, _ in given))


@operator(*OPERATORS, domain=DOMAIN)
def _run(node: Node, *_: Any) -> Any:
    raise AssertionError(f"{node.name} is a layer")
