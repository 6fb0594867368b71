"""The layers of a network that are quantised: their weights, inputs they meet, and new weights."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compression.models.model import Model
from benchmarks.compression.rivals.exchange import Layer, Rounded
from gq_tvm.ops.torch_ops import unfold
from gq_tvm.quantize.drop_in.supported import WeightPlace, find_weights
from gq_tvm.quantize.prepare import attach
from gq_tvm.quantize.quantisers.quantizer import Quantizer
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

_ROWS = 1024  # of inputs a layer keeps, evenly out of those it met
_CALL = 96  # of them at most from one call


def quantised(model: Model, net: nn.Module) -> list[WeightPlace]:
    """The weights that every method holds in few bits."""
    return [
        w
        for w in find_weights(net)
        if w.obstacle is None
        and not any(fnmatchcase(name, pattern) for name in w.names for pattern in model.left)
    ]


def left_in_float(model: Model, net: nn.Module) -> dict[str, int]:
    """Parameters and buffers outside those weights, with how many numbers each holds."""
    weights = {id(w.parameter) for w in quantised(model, net)}
    return {n: p.numel() for n, p in net.named_parameters() if id(p) not in weights}


def layers(model: Model, net: nn.Module) -> list[Layer]:
    """All of them, with inputs out of the calibration half."""
    with _watched(net) as met:
        model.calibrate(net)
    found = []
    for place in quantised(model, net):
        rows = torch.cat(met[place.name])
        some = rows[torch.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).long()]
        weight = place.parameter.detach().flatten(1)
        found.append(Layer(place.name, weight.numpy().copy(), some.numpy().copy()))
    return found


def rebuilt(
    model: Model, net: nn.Module, weights: Mapping[str, Rounded], activation: str
) -> nn.Module:
    """A copy with other weights, whose layers round their inputs where ``activation`` says so."""
    changed = copy.deepcopy(net)
    places = {w.name: w for w in quantised(model, changed)}
    with torch.no_grad():
        for name, one in weights.items():
            parameter = places[name].parameter
            parameter.copy_(torch.from_numpy(one.weight).view_as(parameter))
    if activation == "fp32":
        return changed
    attach(changed, 8, model.left, activation, lambda weight, bits, _: AsItIs(bits))
    for module in changed.modules():
        if isinstance(module, QuantLayer):
            module.train()  # by fake quantisation: rivals' weights lie on no codebook of ours
        if isinstance(module, QuantRecurrent):
            module.exact_state = True
    return changed


class AsItIs(Quantizer):
    """A quantiser that changes nothing, before weights that are rounded already."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits, int8_grid=False, per_row=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight."""
        return weight.detach()

    def harden(self, weight: Tensor) -> Any:
        """Such weights are in no codebook."""
        raise NotImplementedError


@contextmanager
def _watched(net: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Rows of inputs by name of the weight they meet, as the network runs."""
    met: dict[str, list[Tensor]] = defaultdict(list)
    hooks = []
    for name, module in net.named_modules():
        watch: Any = None
        if isinstance(module, nn.Linear):
            watch = _linear
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            watch = _convolution
        elif isinstance(module, nn.LSTM):
            watch = _lstm
        if watch is not None:

            def hook(module: nn.Module, inputs: Any, watch: Any = watch, name: str = name) -> None:
                for attribute, rows in watch(module, *inputs):
                    if len(rows) > _CALL:
                        rows = rows[torch.linspace(0, len(rows) - 1, _CALL).long()]
                    met[f"{name}.{attribute}"].append(rows.clone())

            hooks.append(module.register_forward_pre_hook(hook))
    try:
        yield met
    finally:
        for one in hooks:
            one.remove()


def _linear(module: nn.Linear, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "weight", x.reshape(-1, module.in_features)


def _convolution(module: nn.Conv1d | nn.Conv2d, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    padding = [int(one) for one in module.padding]
    rows = unfold(x, module.kernel_size, module.stride, padding, module.dilation)
    yield "weight", rows.reshape(-1, prod(module.weight.shape[1:]))


def _lstm(module: nn.LSTM, x: Tensor, state: Any = None) -> Iterator[tuple[str, Tensor]]:
    x = x if module.batch_first else x.transpose(0, 1)
    for number in range(module.num_layers):
        one = nn.LSTM(x.shape[-1], module.hidden_size, bias=module.bias, batch_first=True)
        with torch.no_grad():
            for name, parameter in one.named_parameters():
                parameter.copy_(getattr(module, name.replace("_l0", f"_l{number}")))
            if state is None:
                before = [torch.zeros(1, len(x), module.hidden_size)] * 2
            else:
                before = [part[number : number + 1].contiguous() for part in state]
            y, _ = one(x, tuple(before))
        states = torch.cat([before[0].transpose(0, 1), y[:, :-1]], 1)
        yield f"weight_ih_l{number}", x.reshape(-1, x.shape[-1])
        yield f"weight_hh_l{number}", states.reshape(-1, module.hidden_size)
        x = y


def counts(model: Model, net: nn.Module) -> dict[str, int]:
    """How many numbers each of those weights holds."""
    return {w.name: w.parameter.numel() for w in quantised(model, net)}
