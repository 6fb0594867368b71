"""From a model in training to the model that is deployed."""

from __future__ import annotations

import copy
from functools import singledispatch

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.quantize.codebook_attention import CodebookMultiheadAttention
from gq_tvm.quantize.codebook_layers import (
    CodebookConv1d,
    CodebookEmbedding,
    CodebookLinear,
    CodebookWeight,
)
from gq_tvm.quantize.codebook_recurrent import CodebookGRU, CodebookLSTM
from gq_tvm.quantize.quant_attention import PROJECTIONS, QuantMultiheadAttention
from gq_tvm.quantize.quant_layers import (
    QuantConv1d,
    QuantEmbedding,
    QuantLayer,
    QuantLinear,
)
from gq_tvm.quantize.quant_recurrent import QuantGRU, QuantLSTM, QuantRecurrent
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
    for parent in [*model.modules(), *layers.values()]:
        for name, child in parent._modules.items():
            if child in layers:
                setattr(parent, name, layers[child])
    return layers.get(model, model).eval()


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
    with torch.no_grad():
        biases = [module.summed_bias(n) for n in range(module.num_layers)]
    pairs = _pairs(module, weights)
    return CodebookLSTM(pairs, biases, module.activation, module.batch_first)


@_codebook_layer.register
def _(module: QuantGRU, weights: dict[str, CodebookWeight]) -> nn.Module:
    both = [module.biases(n) for n in range(module.num_layers)]
    biases = [None if b is None else (b[0].detach(), b[1].detach()) for b in both]
    pairs = _pairs(module, weights)
    return CodebookGRU(pairs, biases, module.activation, module.batch_first)


def _pairs(
    module: QuantRecurrent, weights: dict[str, CodebookWeight]
) -> list[tuple[CodebookWeight, CodebookWeight]]:
    return [
        (weights[f"weight_ih_l{n}"], weights[f"weight_hh_l{n}"]) for n in range(module.num_layers)
    ]


@_codebook_layer.register
def _(module: QuantMultiheadAttention, weights: dict[str, CodebookWeight]) -> nn.Module:
    if module.in_proj_weight is None:
        parts = [weights[name] for name in PROJECTIONS]
    else:
        parts = weights["in_proj_weight"].split_rows(3)
    biases = [None if bias is None else bias.detach().clone() for bias in module.biases()]
    projections = [
        CodebookLinear(part, bias, module.activation)
        for part, bias in zip(parts, biases, strict=True)
    ]
    # Behind the heads stands a layer of its own; ``convert`` puts it here.
    return CodebookMultiheadAttention(
        [*projections, module.out_proj], module.embed_dim, module.num_heads, module.batch_first
    )
