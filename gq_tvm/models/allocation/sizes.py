"""Bytes of a network when it is deployed."""

from __future__ import annotations

from torch import nn

from gq_tvm import quantize
from gq_tvm.quantize import WeightReport


def deployed_weights(model: nn.Module) -> list[WeightReport]:
    """The matrices of a float, prepared or converted network, without those for training only."""
    return [one for one in quantize.describe(model) if not one.name.startswith("auxiliary.")]


def float_vector_bytes(model: nn.Module) -> int:
    """Bytes of biases, norms and other vectors of a float or prepared network: all float32."""
    apart = {weight.name for weight in quantize.describe(model)}
    for name, module in model.named_modules():
        if isinstance(module, nn.LSTM):  # its two biases are deployed as their sum
            apart |= {f"{name}.bias_hh_l{layer}" for layer in range(module.num_layers)}
    return sum(
        4 * parameter.numel()
        for name, parameter in model.named_parameters()
        if name not in apart and ".quantizers." not in name and not name.startswith("auxiliary.")
    )


def deployed_bytes(model: nn.Module) -> int:
    """Packed indices, codebooks, and all that stays in float32, of a float or prepared network."""
    return sum(one.size for one in deployed_weights(model)) + float_vector_bytes(model)
