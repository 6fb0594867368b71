"""``nn.LSTM`` and ``nn.GRU`` as they are deployed, one direction, their weights in codebooks.

Layers may be left in float: these keep PyTorch's parameters, and PyTorch computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.ops.torch_weight import AnyWeight, WeightTensors
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer, looked_up
from gq_tvm.quantize.drop_in.recurrent import (
    State,
    biases_of_layer,
    float_gru,
    float_lstm,
    run_layers,
    weights_of_layer,
)
from gq_tvm.quantize.drop_in.replacement import scaled_input

#: For each layer the weight before the input and the one before the state.
Pairs = Sequence[tuple[AnyWeight, AnyWeight]]


class CodebookRecurrent(CodebookLayer, nn.RNNBase):
    """What the two share."""

    def _settle(self) -> None:
        # PyTorch fills this list with weights at every move to a device: none is to be kept.
        self._flat_weights_names, self._flat_weights, self._flat_weight_refs = [], [], []
        for name in [b for n in self._quantised_layers() for b in biases_of_layer(n)]:
            self._parameters.pop(name, None)
        self._offer_floats()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As PyTorch's."""
        super().__setstate__(state)
        self._offer_floats()

    def _offer_floats(self) -> None:
        """Give the class a property for each weight and bias: instances cannot have any."""
        for name in [name for n in range(self.num_layers) for name in weights_of_layer(n)]:
            setattr(type(self), name, looked_up(name))

    def _quantised_layers(self) -> list[int]:
        return [n for n in range(self.num_layers) if not self._left_in_float(n)]

    def _left_in_float(self, number: int) -> bool:
        return weights_of_layer(number)[0] in self._parameters

    def weight_names(self) -> list[str]:
        """Two weights a layer that is not left in float."""
        return [name for n in self._quantised_layers() for name in weights_of_layer(n)]

    def _parameters_of(self, number: int) -> list[Tensor]:
        """The weights and biases of a layer that was left in float."""
        names = weights_of_layer(number) + biases_of_layer(number) * self.bias
        return [getattr(self, name) for name in names]

    def _operands(self, number: int) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Both weights of a layer as its operator takes them: coded, and their outliers."""
        weights = [self.codebook_weight(name) for name in weights_of_layer(number)]
        coded = [array for weight in weights for array in weight.coded]
        return coded, [array for weight in weights for array in weight.outliers]

    def extra_repr(self) -> str:
        """As ``CodebookLayer``, with the layers that were left in float."""
        floats = [n for n in range(self.num_layers) if self._left_in_float(n)]
        return super().extra_repr() + (f", float_layers={floats}" if floats else "")

    def flatten_parameters(self) -> None:
        """Nothing to do: the operators read indices as they lie."""

    def _hold_pairs(
        self, pairs: Pairs, biases: Mapping[str, Tensor | None], activation: str
    ) -> None:
        flat = (WeightTensors.of(weight) for pair in pairs for weight in pair)
        names = (name for n in range(self.num_layers) for name in weights_of_layer(n))
        self.hold(dict(zip(names, flat, strict=True)), biases, activation)


def _sizes(pairs: Pairs) -> tuple[int, int, int]:
    """Input, hidden size and number of layers."""
    return pairs[0][0].indices.shape[1], pairs[0][1].indices.shape[1], len(pairs)


def _left_or(name: str, value: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """A parameter of that name where the layer was left in float, else ``value``."""
    return lambda layer: layer._parameters[name] if name in layer._parameters else value(layer)


def _zeros_like(read: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    return lambda layer: torch.zeros_like(read(layer))


class CodebookLSTM(CodebookRecurrent, nn.LSTM):
    """``nn.LSTM`` in one direction with its weights in codebooks.

    Args:
        weights: for each layer ([4H, I or H], [4H, H]).
        biases: for each layer f32 [4H], the sum of PyTorch's two, or None.
        activation: as in ``CodebookLinear``.
        batch_first: as in ``nn.LSTM``.

    Raises:
        Error: the weights' shapes, dtypes or indices are wrong.
    """

    replaced = nn.LSTM

    def __init__(
        self,
        weights: Pairs,
        biases: Sequence[Tensor | None],
        activation: str,
        batch_first: bool = False,
    ) -> None:
        biased = biases[0] is not None
        like = nn.LSTM(*_sizes(weights), bias=biased, batch_first=batch_first, device="meta")
        vars(self).update(vars(like))
        self._hold_pairs(weights, {f"bias_l{n}": b for n, b in enumerate(biases)}, activation)

    def _offer_floats(self) -> None:
        super()._offer_floats()
        for number in range(self.num_layers if self.bias else 0):
            summed = attrgetter(f"bias_l{number}")  # deployed as one
            both: list[Callable[[Any], Tensor]] = [summed, _zeros_like(summed)]
            for name, value in zip(biases_of_layer(number), both, strict=True):
                setattr(type(self), name, property(_left_or(name, value)))

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``nn.LSTM``: f32 [B, T, I] (or [T, B, I], or [T, I]) and the state (h, c)."""

        def layer(x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
            x = scaled_input(self, x) if number == 0 else x
            if self._left_in_float(number):
                return float_lstm(x, state, self._parameters_of(number))
            coded, outliers = self._operands(number)
            activation = self.activation_of(weights_of_layer(number)[0])
            y, h, c = torch.ops.gq.codebook_lstm(
                x, *state, *coded, getattr(self, f"bias_l{number}"), activation, *outliers
            )
            return y, (h, c)

        sizes = self.num_layers, self.hidden_size, self.batch_first
        y, (h, c) = run_layers(layer, input, hx, "hc", *sizes)
        return y, (h, c)


class CodebookGRU(CodebookRecurrent, nn.GRU):
    """``nn.GRU`` in one direction with its weights in codebooks.

    Args:
        weights: for each layer ([3H, I or H], [3H, H]).
        biases: for each layer PyTorch's two, f32 [3H] each, or None.
        activation: as in ``CodebookLinear``.
        batch_first: as in ``nn.GRU``.

    Raises:
        Error: the weights' shapes, dtypes or indices are wrong.
    """

    replaced = nn.GRU

    def __init__(
        self,
        weights: Pairs,
        biases: Sequence[tuple[Tensor, Tensor] | None],
        activation: str,
        batch_first: bool = False,
    ) -> None:
        biased = biases[0] is not None
        like = nn.GRU(*_sizes(weights), bias=biased, batch_first=batch_first, device="meta")
        vars(self).update(vars(like))
        named = {
            f"bias_{kind}_l{n}": bias
            for n, both in enumerate(biases)
            for kind, bias in zip(("ih", "hh"), both or (None, None), strict=True)
        }
        self._hold_pairs(weights, named, activation)

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``nn.GRU``: f32 [B, T, I] (or [T, B, I], or [T, I]) and the state h."""

        def layer(x: Tensor, state: State, number: int) -> tuple[Tensor, State]:
            x = scaled_input(self, x) if number == 0 else x
            if self._left_in_float(number):
                return float_gru(x, state, self._parameters_of(number))
            biases = [getattr(self, name) for name in biases_of_layer(number)]
            coded, outliers = self._operands(number)
            activation = self.activation_of(weights_of_layer(number)[0])
            y, h = torch.ops.gq.codebook_gru(x, *state, *coded, *biases, activation, *outliers)
            return y, (h,)

        sizes = self.num_layers, self.hidden_size, self.batch_first
        y, (h,) = run_layers(layer, input, None if hx is None else (hx,), "h", *sizes)
        return y, h
