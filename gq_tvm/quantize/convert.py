"""From a model in training to the model that is deployed."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.deployed.codebook_attention import PROJECTIONS, CodebookMultiheadAttention
from gq_tvm.quantize.deployed.codebook_layers import (
    CodebookConv1d,
    CodebookConv2d,
    CodebookEmbedding,
    CodebookLayer,
    CodebookLinear,
)
from gq_tvm.quantize.deployed.codebook_recurrent import CodebookGRU, CodebookLSTM
from gq_tvm.quantize.drop_in.computed_weights import fold
from gq_tvm.quantize.drop_in.copying import check_is_model, copied
from gq_tvm.quantize.drop_in.replacement import become
from gq_tvm.quantize.quantisers.quantizer import check_finite
from gq_tvm.quantize.training_layers.quant_attention import QuantMultiheadAttention
from gq_tvm.quantize.training_layers.quant_layers import (
    QuantConv1d,
    QuantConv2d,
    QuantEmbedding,
    QuantLayer,
    QuantLinear,
)
from gq_tvm.quantize.training_layers.quant_recurrent import QuantGRU, QuantLSTM


def convert(model: nn.Module) -> nn.Module:
    """Replace the quantised layers of a prepared model by codebook layers.

    Args:
        model: what ``prepare`` returned, trained; it is left as it was and can train on.

    Returns:
        A copy in ``eval`` mode that computes what ``model.eval()`` computes. Each quantised
        weight is kept as indices, a codebook and scales, no longer as floats; a weight that layers
        shared is one set of buffers that they share.

    Raises:
        Error: the model is not prepared or cannot be copied, or a weight is NaN, infinite or no
            longer float32.
    """
    check_is_model("convert", model)
    if not any(isinstance(m, QuantLayer) for m in model.modules()):
        raise Error("convert: the model has no quantised layer; call quantize.prepare first.")
    model = copied(model, "convert")
    weights: dict[Tensor, WeightTensors] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantLayer):
            fold(module)  # what was pruned in training
            _deploy(module, _weights_of(module, name, weights))
    return model.eval()


def _weights_of(
    module: QuantLayer, name: str, done: dict[Tensor, WeightTensors]
) -> dict[str, WeightTensors]:
    """The module's weights by attribute; one that another layer holds too is taken from there."""
    found = {}
    for attribute in module.quantizers:
        parameter = getattr(module, attribute)
        if parameter not in done:
            full = f"{name}.{attribute}" if name else attribute
            if parameter.dtype != torch.float32:
                kind = str(parameter.dtype).removeprefix("torch.")
                raise Error(f"convert: {full} is {kind}; call model.float() first.")
            check_finite(full, parameter)
            done[parameter] = module.hardened(attribute)
        found[attribute] = done[parameter]
    return found


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


@singledispatch
def _deploy(module: QuantLayer, weights: dict[str, WeightTensors]) -> None:
    """Make a layer in training the codebook layer that takes its place."""
    raise NotImplementedError(type(module).__name__)


@_deploy.register
def _(module: QuantLinear, weights: dict[str, WeightTensors]) -> None:
    _become(module, CodebookLinear, weights, {"bias": _detached(module.bias)})


@_deploy.register
def _(module: QuantConv1d, weights: dict[str, WeightTensors]) -> None:
    _become(module, CodebookConv1d, weights, {"bias": _detached(module.bias)})


@_deploy.register
def _(module: QuantConv2d, weights: dict[str, WeightTensors]) -> None:
    _become(module, CodebookConv2d, weights, {"bias": _detached(module.bias)})


@_deploy.register
def _(module: QuantEmbedding, weights: dict[str, WeightTensors]) -> None:
    _become(module, CodebookEmbedding, weights, {})


@_deploy.register
def _(module: QuantLSTM, weights: dict[str, WeightTensors]) -> None:
    biases = {f"bias_l{n}": _detached(module.summed_bias(n)) for n in module.quantised_layers()}
    _become(module, CodebookLSTM, weights, biases)


@_deploy.register
def _(module: QuantGRU, weights: dict[str, WeightTensors]) -> None:
    biases = {
        f"bias_{kind}_l{n}": _detached(bias)
        for n in module.quantised_layers()
        for kind, bias in zip(("ih", "hh"), module.biases(n) or (None, None), strict=True)
    }
    _become(module, CodebookGRU, weights, biases)


@_deploy.register
def _(module: QuantMultiheadAttention, weights: dict[str, WeightTensors]) -> None:
    parts: list[Any]  # each WeightTensors, or a Tensor that was left in float
    if module.in_proj_weight is None:
        parts = [weights.get(name, getattr(module, name)) for name in PROJECTIONS]
    elif "in_proj_weight" in weights:
        parts = [*weights["in_proj_weight"].split_rows(3)]
    else:
        parts = [*module.in_proj_weight.chunk(3)]
    biases = [None if bias is None else bias.detach().clone() for bias in module.biases()]
    projections = [
        _projection(part, bias, module.activation) for part, bias in zip(parts, biases, strict=True)
    ]
    module.detach()
    become(module, CodebookMultiheadAttention)
    assert isinstance(module, CodebookMultiheadAttention)
    module.hold_projections(projections)


def _projection(weight: WeightTensors | Tensor, bias: Tensor | None, activation: str) -> nn.Linear:
    if isinstance(weight, WeightTensors):
        return CodebookLinear(weight, bias, activation)
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _become(
    module: QuantLayer,
    ours: type[CodebookLayer],
    weights: dict[str, WeightTensors],
    biases: dict[str, Tensor | None],
) -> None:
    activation = {name: module.activation_of(name) for name in weights}
    module.detach()
    become(module, ours)
    assert isinstance(module, CodebookLayer)
    module.hold(weights, biases, activation)
