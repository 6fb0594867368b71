"""A float model, and its weights as they are at few bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.deployed.codebook_layers import CodebookLinear
from gq_tvm.quantize.describe import describe
from gq_tvm.quantize.drop_in.computed_weights import fold
from gq_tvm.quantize.drop_in.copying import copied
from gq_tvm.quantize.drop_in.supported import WeightPlace, find_weights, layer_kind, why_none
from gq_tvm.quantize.fitting import Form, fit
from gq_tvm.quantize.prepare import activations_met, check_activations
from gq_tvm.quantize.quantisers.quantizer import check_finite

_DEFAULT_GROUP = 32


class FloatWeights:
    """The weights of a copy of a float model that can be quantised.

    Args:
        model: any float model; computed weights become plain ones in the copy.
        activation: see ``prepare``.
        verb: who refuses.

    Attributes:
        model: the copy, in eval mode.
        places: by name; a weight that layers share once.
        kinds: the activations each meets.

    Raises:
        Error: there is no such weight, one is not finite, or a pattern matches nothing.
    """

    def __init__(self, model: nn.Module, activation: str | Mapping[str, str], verb: str) -> None:
        check_activations(activation)
        self.model = copied(model, verb).eval()
        for module in self.model.modules():
            if layer_kind(module):
                fold(module)
        found = find_weights(self.model)
        self.places: dict[str, WeightPlace] = {}
        self.kinds: dict[str, str] = {}
        first: dict[int, str] = {}
        for one, kind in activations_met(found, activation).items():
            name = first.setdefault(id(one.parameter), one.name)
            if name == one.name:
                check_finite(name, one.parameter)
                self.places[name] = one
                self.kinds[name] = kind
            elif self.kinds[name] == "fp32":
                self.kinds[name] = kind  # on a grid, if any of its holders wants one
        if not self.places:
            raise Error(f"{verb}: the model has no weight to quantise: {why_none(model, found)}.")

    def layer(self, name: str) -> str:
        """What is left in float together: a layer of an LSTM or GRU, else the weight alone."""
        place = self.places[name]
        if place.layer is None:
            return name
        return f"{place.module_name}.{place.layer}" if place.module_name else str(place.layer)

    def coded(self, name: str, bits: int, scales: str | int | None) -> WeightTensors:
        """A weight in its codebook: indices u8 [N, K].

        Args:
            name: of the weight.
            bits: 1 to 8.
            scales: as in ``compress``.
        """
        kind = self.kinds[name]
        if scales is None:
            scales = "row" if kind in ("int1", "int2") else _DEFAULT_GROUP
        form = Form(bits, kind != "fp32", scales)
        return fit(self.places[name].parameter.detach().flatten(1), form).weight

    def value(self, name: str, weight: WeightTensors) -> Tensor:
        """What the model computes with once it is deployed so: f32 of the parameter's shape."""
        place = self.places[name]
        value = expand(weight).view(place.parameter.shape)
        if isinstance(place.module, nn.Embedding) and place.module.padding_idx is not None:
            value[place.module.padding_idx] = 0.0
        return value

    def size(self, name: str, weight: WeightTensors) -> int:
        """Bytes of a weight in its codebook, all counted."""
        return describe(CodebookLinear(weight, None, self.kinds[name]))[0].size

    def float_size(self, name: str) -> int:
        """Bytes of a weight in float, with the bias that only a float layer has apart."""
        place = self.places[name]
        other = None
        if isinstance(place.module, nn.LSTM) and "_hh_" in name:
            other = getattr(place.module, f"bias_hh_l{place.layer}", None)  # deployed as a sum
        return 4 * (place.parameter.numel() + (0 if other is None else other.numel()))

    def bytes(self) -> int:
        """Bytes of all parameters and buffers of the float model."""
        tensors = {id(one): one for one in [*self.model.parameters(), *self.model.buffers()]}
        return sum(one.numel() * one.element_size() for one in tensors.values())

    @contextmanager
    def having(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """The model with other values of some weights."""
        with replaced({self.places[name].parameter: one for name, one in values.items()}):
            yield


@contextmanager
def replaced(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Parameters with other values inside, of the same shapes."""
    before = {parameter: parameter.data for parameter in values}
    try:
        with torch.no_grad():
            for parameter, value in values.items():
                parameter.data = value.to(parameter.device)
        yield
    finally:
        for parameter, value in before.items():
            parameter.data = value
