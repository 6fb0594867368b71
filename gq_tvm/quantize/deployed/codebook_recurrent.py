"""PyTorch's stacks of recurrent layers, and its cells, as they are deployed: weights in codebooks.

Layers of a stack may be left in float: these keep PyTorch's parameters, and PyTorch computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.ops.checks_recurrent import LAYERS
from gq_tvm.ops.torch_weight import AnyWeight, WeightTensors
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer, looked_up
from gq_tvm.quantize.drop_in.recurrent import (
    State,
    biases_of,
    deployed_biases_of,
    endings,
    float_layer,
    is_reverse,
    operator_of,
    run,
    weights_of,
)
from gq_tvm.quantize.drop_in.replacement import scaled_input


class CodebookRecurrent(CodebookLayer):
    """What they share; a layer of a stack goes by its ending (``drop_in.recurrent``).

    Args:
        weights: For each layer in one direction, in PyTorch's order, [gates * H, I], [gates * H, P]
            and of a projected LSTM [P, H].
        biases: For each layer f32 [gates * H], of a GRU two of them, or None.
        activation: as in ``CodebookLinear``.
        options: of PyTorch's layer, such as ``batch_first``, ``bidirectional`` or ``nonlinearity``.

    Raises:
        Error: the weights' shapes, dtypes or indices are wrong.
    """

    def __init__(
        self,
        weights: Sequence[Sequence[AnyWeight]],
        biases: Sequence[Tensor | tuple[Tensor, ...] | None],
        activation: str,
        **options: Any,
    ) -> None:
        kind: Any = self.replaced
        (rows, width), state = weights[0][0].indices.shape, weights[0][1].indices.shape[1]
        sizes = {"input_size": width, "hidden_size": state, "bias": biases[0] is not None}
        if issubclass(kind, nn.RNNBase):
            sizes["num_layers"] = len(weights) // (1 + options.get("bidirectional", False))
        if len(weights[0]) > 2:
            sizes |= {"hidden_size": rows // LAYERS["lstm"].gates, "proj_size": state}
        vars(self).update(vars(kind(**sizes, **options, device="meta")))
        named_weights: dict[str, WeightTensors] = {}
        named_biases: dict[str, Tensor | None] = {}
        for ending, own, bias in zip(endings(self), weights, biases, strict=True):
            held = (WeightTensors.of(weight) for weight in own)
            named_weights |= zip(weights_of(self, ending), held, strict=True)
            names = deployed_biases_of(self, ending)
            each = bias if isinstance(bias, tuple) else (bias,) * len(names)
            named_biases |= zip(names, each, strict=True)
        self.hold(named_weights, named_biases, activation)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As PyTorch's; see ``drop_in.recurrent.run``."""
        return run(self._layer, self, input, hx)

    def _layer(self, x: Tensor, state: State, ending: str) -> tuple[Tensor, State]:
        names, reverse = weights_of(self, ending), is_reverse(ending)
        x = scaled_input(self, x, names[0])
        if self._left_in_float(ending):
            weights = [getattr(self, name) for name in names]
            biases = [getattr(self, name) for name in biases_of(ending) if self.bias]
            return float_layer(operator_of(self), x, state, weights, biases, reverse)
        held = [self.codebook_weight(name) for name in names]
        coded = [array for weight in held for array in weight.coded]
        outliers = [array for weight in held for array in weight.outliers]
        kept = [getattr(self, name) for name in deployed_biases_of(self, ending)]
        operator = getattr(torch.ops.gq, f"codebook_{operator_of(self)}")
        # What is not given is not written into programs.
        last = (None, True) if reverse else ()
        activation = self.activation_of(names[0])
        y, *after = operator(x, *state, *coded, *kept, activation, *outliers, *last)
        return y, tuple(after)

    def _settle(self) -> None:
        if isinstance(self, nn.RNNBase):
            # PyTorch fills this list with weights at every move to a device: none is to be kept.
            lists: Any = self
            lists._flat_weights_names, lists._flat_weights, lists._flat_weight_refs = [], [], []
        for name in [one for ending in self._quantised() for one in biases_of(ending)]:
            self._parameters.pop(name, None)
        self._offer_floats()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As PyTorch's."""
        super().__setstate__(state)
        self._offer_floats()

    def _offer_floats(self) -> None:
        """Give the class a property for each weight and bias: instances cannot have any."""
        for ending in endings(self):
            for name in weights_of(self, ending):
                setattr(type(self), name, looked_up(name))
            if self.bias and len(LAYERS[operator_of(self)].biases) == 1:
                (own,) = deployed_biases_of(self, ending)
                summed = attrgetter(own)
                both: list[Callable[[Any], Tensor]] = [summed, _zeros_like(summed)]
                for name, value in zip(biases_of(ending), both, strict=True):
                    setattr(type(self), name, property(_left_or(name, value)))

    def _quantised(self) -> list[str]:
        return [ending for ending in endings(self) if not self._left_in_float(ending)]

    def _left_in_float(self, ending: str) -> bool:
        return weights_of(self, ending)[0] in self._parameters

    def weight_names(self) -> list[str]:
        """The weights of the layers that are not left in float."""
        return [name for ending in self._quantised() for name in weights_of(self, ending)]

    def extra_repr(self) -> str:
        """As ``CodebookLayer``, with the layers that were left in float."""
        floats = [one.removeprefix("_l") for one in endings(self) if self._left_in_float(one)]
        return super().extra_repr() + (f", float_layers=[{', '.join(floats)}]" if floats else "")

    def flatten_parameters(self) -> None:
        """Nothing to do: the operators read indices as they lie."""


def _left_or(name: str, value: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """A parameter of that name where the layer was left in float, else ``value``."""
    return lambda layer: layer._parameters[name] if name in layer._parameters else value(layer)


def _zeros_like(read: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    return lambda layer: torch.zeros_like(read(layer))


class CodebookLSTM(CodebookRecurrent, nn.LSTM):  # type: ignore[misc]
    """``nn.LSTM`` with its weights in codebooks; its bias is the sum of PyTorch's two."""

    replaced = nn.LSTM


class CodebookGRU(CodebookRecurrent, nn.GRU):  # type: ignore[misc]
    """``nn.GRU`` with its weights in codebooks."""

    replaced = nn.GRU


class CodebookRNN(CodebookRecurrent, nn.RNN):  # type: ignore[misc]
    """``nn.RNN`` with its weights in codebooks; its bias is the sum of PyTorch's two."""

    replaced = nn.RNN


class CodebookLSTMCell(CodebookRecurrent, nn.LSTMCell):
    """``nn.LSTMCell`` with its weights in codebooks; its bias is the sum of PyTorch's two."""

    replaced = nn.LSTMCell


class CodebookGRUCell(CodebookRecurrent, nn.GRUCell):
    """``nn.GRUCell`` with its weights in codebooks."""

    replaced = nn.GRUCell


class CodebookRNNCell(CodebookRecurrent, nn.RNNCell):
    """``nn.RNNCell`` with its weights in codebooks; its bias is the sum of PyTorch's two."""

    replaced = nn.RNNCell
