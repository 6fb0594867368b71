"""NNCF's weight compression for OpenVINO, one Linear at a time, with the inputs it met.

AWQ has no part here: it moves scales into the layer before, and does nothing to a lone Linear.
"""

from __future__ import annotations

import logging
from typing import Any

import nncf
import numpy as np
import openvino as ov
from nncf import CompressWeightsMode, Dataset
from openvino import opset13 as ops

from benchmarks.compression.rivals.exchange import Floats, Layer, Rounded, grouped_bytes, padded

_GROUP = 32
_SOME = 128  # rows of inputs a sample, for NNCF reduces each sample to its mean
#: By variant: mode, bits, bits of a group's zero point, bytes of a table, more options.
_VARIANTS: dict[str, tuple[str, int, int, int, dict[str, Any]]] = {
    "int4-sym-se": ("INT4_SYM", 4, 0, 0, {"scale_estimation": True}),
    "int4-asym-se": ("INT4_ASYM", 4, 4, 0, {"scale_estimation": True}),
    "int4-sym-gptq": ("INT4_SYM", 4, 0, 0, {"gptq": True}),
    "int4-asym-gptq": ("INT4_ASYM", 4, 4, 0, {"gptq": True}),
    "nf4": ("NF4", 4, 0, 0, {}),
    "codebook": ("CB4", 4, 0, 16, {}),
    "adaptive-codebook": ("ADAPTIVE_CODEBOOK", 4, 0, 16, {}),
    "int3-sym-se": ("INT3_SYM", 3, 0, 0, {"scale_estimation": True}),
    "int2-sym-se": ("INT2_SYM", 2, 0, 0, {"scale_estimation": True}),
}


def rounded(layer: Layer, variant: str) -> Rounded:
    """Variants: NNCF's mode, and ``se`` for scale estimation or ``gptq``."""
    nncf.set_log_level(logging.ERROR)
    mode, bits, zero_bits, table, options = _VARIANTS[variant]
    samples = padded(layer.samples, _GROUP)
    pieces = [samples[at : at + _SOME] for at in range(0, len(samples), _SOME)]
    compressed = nncf.compress_weights(
        _linear(padded(layer.weight, _GROUP)), mode=CompressWeightsMode[mode], ratio=1.0,
        group_size=_GROUP, all_layers=True, dataset=Dataset(pieces), subset_size=len(pieces),
        **options,
    )  # fmt: skip
    values = _weight(compressed)[:, : layer.weight.shape[1]]
    size = grouped_bytes(layer.weight.shape, bits, _GROUP, zero_bits=zero_bits) + table
    return Rounded(np.ascontiguousarray(values, np.float32), size)


def _linear(weight: Floats) -> ov.Model:
    x = ops.parameter([-1, weight.shape[1]], np.float32)
    product = ops.matmul(x, ops.constant(weight), False, True)
    return ov.Model([product], [x])


def _weight(model: ov.Model) -> Floats:
    """What the product of a compressed model takes for its weight."""
    (product,) = (node for node in model.get_ops() if node.get_type_name() == "MatMul")
    if product.input_value(1).get_node().get_type_name() == "Constant":
        raise ValueError("NNCF left the weight as it was")
    alone = ov.Model([product.input_value(1)], [])
    compiled = ov.Core().compile_model(alone, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({})[0]
