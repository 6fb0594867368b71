"""From a model in training to the model that is deployed."""

from __future__ import annotations

import copy
from functools import singledispatch

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.quantize.codebook_layers import (
    CodebookConv1d,
    CodebookEmbedding,
    CodebookLinear,
    CodebookLSTM,
    CodebookWeight,
)
from gq_tvm.quantize.quant_layers import (
    QuantConv1d,
    QuantEmbedding,
    QuantLayer,
    QuantLinear,
    QuantLSTM,
)
from gq_tvm.quantize.quantizer import check_finite


def convert(model: nn.Module) -> nn.Module:
    """Replace the quantised layers of a prepared model by codebook layers.

    Args:
        model: what ``prepare`` returned, trained; it is left as it was and can train on.

    Returns:
        A copy in ``eval`` mode that computes what ``model.eval()`` computes. Each quantised
        weight is kept as indices and a codebook, no longer as floats; a weight that layers
        shared is one pair of buffers that they share.

    Raises:
        Error: the model is not prepared, or a weight is NaN or infinite.
    """
    if not any(isinstance(m, QuantLayer) for m in model.modules()):
        raise Error("convert: the model has no quantised layer; call quantize.prepare first.")
    model = copy.deepcopy(model)
    weights: dict[int, CodebookWeight] = {}
    layers: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantLayer):
            layers[module] = _codebook_layer(module, _weights_of(module, name, weights))
    if model in layers:
        return layers[model].eval()
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in layers:
                setattr(parent, name, layers[child])
    return model.eval()


def _weights_of(
    module: QuantLayer, name: str, done: dict[int, CodebookWeight]
) -> dict[str, CodebookWeight]:
    """The module's weights by attribute; one that another layer holds too is taken from there."""
    found = {}
    for attribute in module.quantizers:
        parameter = getattr(module, attribute)
        if id(parameter) not in done:
            check_finite(f"{name}.{attribute}" if name else attribute, parameter)
            bits = module.quantizer(attribute).bits
            done[id(parameter)] = CodebookWeight(*module.hardened(attribute), bits)
        found[attribute] = done[id(parameter)]
    return found


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


@singledispatch
def _codebook_layer(module: QuantLayer, weights: dict[str, CodebookWeight]) -> nn.Module:
    raise NotImplementedError(type(module).__name__)


@_codebook_layer.register
def _(module: QuantLinear, weights: dict[str, CodebookWeight]) -> nn.Module:
    return CodebookLinear(weights["weight"], _detached(module.bias), module.activation)


@_codebook_layer.register
def _(module: QuantConv1d, weights: dict[str, CodebookWeight]) -> nn.Module:
    padding, pad = module.symmetric_padding()
    return CodebookConv1d(
        weights["weight"], _detached(module.bias), module.activation, module.stride[0], padding,
        module.dilation[0], module.groups, pad,
    )  # fmt: skip


@_codebook_layer.register
def _(module: QuantEmbedding, weights: dict[str, CodebookWeight]) -> nn.Module:
    return CodebookEmbedding(weights["weight"], module.padding_idx)


@_codebook_layer.register
def _(module: QuantLSTM, weights: dict[str, CodebookWeight]) -> nn.Module:
    numbers = range(module.num_layers)
    with torch.no_grad():
        biases = [module.summed_bias(n) for n in numbers]
    pairs = [(weights[f"weight_ih_l{n}"], weights[f"weight_hh_l{n}"]) for n in numbers]
    return CodebookLSTM(pairs, biases, module.activation, module.batch_first)
