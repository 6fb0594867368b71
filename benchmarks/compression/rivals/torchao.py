"""torchao's weight-only quantisers: groups of 32 inputs, each with a 16-bit scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
from torchao.quantization.quant_primitives import (
    MappingType,
    _choose_qparams_and_quantize_affine_hqq,
)
from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

from benchmarks.compression.rivals.exchange import Layer, Rounded, grouped_bytes, padded

_GROUP = 32


def rounded(layer: Layer, variant: str) -> Rounded:
    """Variants: bits and ``sym``, ``asym`` (IntxWeightOnly), ``hqq-scale`` or ``hqq``."""
    bits, _, how = variant.partition("-")
    weight = torch.from_numpy(padded(layer.weight, _GROUP))
    values = _hqq(weight, int(bits)) if how == "hqq" else _intx(weight, int(bits), how)
    zero_bits = {"asym": 8, "hqq": 16}.get(how, 0)
    shape = layer.weight.shape
    kept = values[:, : shape[1]].contiguous().float().numpy()
    return Rounded(kept, grouped_bytes(shape, int(bits), _GROUP, zero_bits=zero_bits))


def _intx(weight: Tensor, bits: int, how: str) -> Tensor:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    config = IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{bits}"),
        granularity=PerGroup(_GROUP),
        mapping_type=MappingType.ASYMMETRIC if how == "asym" else MappingType.SYMMETRIC,
        scale_dtype=torch.float16,
        intx_choose_qparams_algorithm=(
            IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY
            if how == "hqq-scale"
            else IntxChooseQParamsAlgorithm.AFFINE
        ),
    )
    quantize_(linear, config)
    return linear.weight.dequantize()


def _hqq(weight: Tensor, bits: int) -> Tensor:
    """As ``Int4WeightOnlyConfig`` has it with HQQ, whose scales and zeros are in 16 bits."""
    levels, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
        weight, nbits=bits, group_size=_GROUP, axis=1, compute_dtype=torch.float32,
        device="cpu", raw_output=True,
    )  # fmt: skip
    grouped = levels.float().reshape(-1, _GROUP)
    scale, zero = (one.half().float().reshape(-1, 1) for one in (scale, zero))
    return ((grouped - zero) * scale).reshape(weight.shape)
