"""Factors for the inputs of a layer that int8 rows would hold badly.

A row of integers has one step, set by its largest input. Where inputs are of unlike size and the
weights before the small ones large, as with mel energies, that step loses what counts. The inputs
are then multiplied by factors in front of the layer, and its weights divided by them, which changes
nothing in float (SmoothQuant, arXiv 2211.10438, there by one formula; here the best of several
tries is taken, and only where it pays [C]). Factors are powers of two, so that no float is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gq_tvm.ops.torch_rounding import quantize_activations
from gq_tvm.quantize.training_layers.quant_layers import QuantConvolution, QuantLayer, QuantLinear
from gq_tvm.quantize.training_layers.quant_recurrent import QuantRecurrent

#: Rows that the choice is made from.
SAMPLE = 256

# Rounding to int8 is left alone where an output loses less than this share of its variance, some
# ten times what it loses of normally distributed inputs, or where factors would not halve it twice.
_WORTH, _GAIN = 5e-4, 0.25
_SMALLEST = 2.0**-40  # of the largest input


def can_scale(layer: QuantLayer, attribute: str) -> bool:
    """Whether a layer can have factors in front of the weight."""
    if layer.activation != "int8":
        return False
    if isinstance(layer, QuantRecurrent):
        return attribute == "weight_ih_l0"
    return isinstance(layer, QuantLinear | QuantConvolution)


def factors(weight: Tensor, rows: Tensor, taps: int) -> Tensor | None:
    """The factors of a layer's inputs, or None where they would not pay.

    Args:
        weight: f32 [N, K].
        rows: f32 [M, K], some that it meets.
        taps: how many neighbours among the K are of one input, 1 or those of a convolution.

    Returns:
        f32 [K / taps], powers of two.
    """
    weight, rows = weight.cpu(), rows.cpu()
    wanted = rows @ weight.T
    power = (wanted - wanted.mean(0)).square().sum(0)
    live = power > 0
    if not live.any():
        return None

    def lost(one: Tensor) -> float:
        spread = one.repeat_interleave(taps)
        q, scale = quantize_activations(rows * spread, "int8")
        missed = (q * scale / spread - rows) @ weight.T
        return float((missed.square().sum(0)[live] / power[live]).mean())

    before = lost(torch.ones(rows.shape[1] // taps))
    if before < _WORTH:
        return None
    least, best = min(
        ((lost(one), one) for one in _tries(weight, rows, taps)), key=lambda tried: tried[0]
    )
    return best if least < _GAIN * before else None


def _tries(weight: Tensor, rows: Tensor, taps: int) -> Iterator[Tensor]:
    by_input = rows.abs().unflatten(1, (-1, taps))
    floor = by_input.amax() * _SMALLEST
    sizes = (
        by_input.square().mean((0, 2)).sqrt().clamp_min(floor),
        by_input.clamp_min(floor).log().mean((0, 2)).exp(),
    )
    weights = weight.unflatten(1, (-1, taps)).square().mean((0, 2)).sqrt()
    weights = weights.clamp_min(weights.amax() * _SMALLEST)
    for size in sizes:
        for share in (0.25, 0.5, 0.75, 1.0):
            step = -(share * size.log2() - (1 - share) * weights.log2())
            step = step - step.amax()  # so that none grows without bound
            yield torch.exp2(step.round())


def put_before(layer: QuantLayer, weight: Tensor, scale: Tensor) -> Tensor:
    """Let a layer multiply its inputs by factors; gives its weight [N, K, ...] divided by them."""
    scale = scale.to(weight.device)
    layer.register_buffer("input_scale", scale)
    return weight / scale.reshape(-1, *[1] * (weight.dim() - 2))
