"""Which bias makes up for the mean of what a compressed weight changes."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from torch import nn

from gq_tvm.quantize.deployed.codebook_attention import PROJECTIONS
from gq_tvm.quantize.training_layers.quant_attention import QuantMultiheadAttention
from gq_tvm.quantize.training_layers.quant_layers import QuantConvolution, QuantLayer, QuantLinear
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent


@singledispatch
def bias_behind(layer: QuantLayer, attribute: str) -> tuple[nn.Parameter, int] | None:
    """The bias that is added behind a product, and where in it the product's outputs begin.

    None where there is none.
    """
    return None


@bias_behind.register
def _(layer: QuantLinear | QuantConvolution, attribute: str) -> tuple[nn.Parameter, int] | None:
    return _at(layer.bias, 0)


@bias_behind.register
def _(layer: QuantRecurrent, attribute: str) -> tuple[nn.Parameter, int] | None:
    return _at(getattr(layer, attribute.replace("weight", "bias"), None), 0)


@bias_behind.register
def _(layer: QuantMultiheadAttention, attribute: str) -> tuple[nn.Parameter, int] | None:
    part = 0 if attribute == "in_proj_weight" else PROJECTIONS.index(attribute)
    return _at(layer.in_proj_bias, part * layer.embed_dim)


def _at(bias: Any, first: int) -> tuple[nn.Parameter, int] | None:
    return (bias, first) if isinstance(bias, nn.Parameter) else None
