"""A float model, and its weights as they are at few bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.drop_in.computed_weights import fold
from gq_tvm.quantize.drop_in.copying import copied
from gq_tvm.quantize.drop_in.recurrent import deployed_biases_of
from gq_tvm.quantize.drop_in.supported import WeightPlace, find_weights, layer_kind


class FloatWeights:
    """The weights of a copy of a float model that can be quantised.

    Args:
        model: any float model; computed weights become plain ones in the copy.
        verb: who refuses.

    Attributes:
        model: the copy, in eval mode.
        places: by name; a weight that layers share once, by the first of its names.
    """

    def __init__(self, model: nn.Module, verb: str) -> None:
        self.model = copied(model, verb).eval()
        for module in self.model.modules():
            if layer_kind(module):
                fold(module)
        self.places: dict[str, WeightPlace] = {}
        first: dict[int, str] = {}
        for one in find_weights(self.model):
            if one.obstacle is None and first.setdefault(id(one.parameter), one.name) == one.name:
                self.places[one.name] = one

    def layer(self, name: str) -> str:
        """What is left in float together: a layer of a recurrent stack, else the weight alone."""
        place = self.places[name]
        if place.layer is None:
            return name
        return f"{place.module_name}.{place.layer}"

    def value(self, name: str, weight: WeightTensors, factors: Tensor | None = None) -> Tensor:
        """What the model computes with once a weight is deployed so.

        Args:
            name: of the weight.
            weight: indices u8 [N, K].
            factors: f32 [K], of its inputs in front of the layer; None: 1.

        Returns:
            f32 of the parameter's shape.
        """
        place = self.places[name]
        value = expand(weight)
        value = (value if factors is None else value * factors).view(place.parameter.shape)
        if isinstance(place.module, nn.Embedding) and place.module.padding_idx is not None:
            value[place.module.padding_idx] = 0.0
        return value

    def float_size(self, name: str) -> int:
        """Bytes of a weight in float, with the bias that only a float layer has apart."""
        place = self.places[name]
        other, ending = None, place.layer
        if ending is not None and place.attribute == f"weight_hh{ending}":
            summed = len(deployed_biases_of(place.module, ending)) == 1
            other = getattr(place.module, f"bias_hh{ending}", None) if summed else None
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
