"""Factors for the inputs of a layer that int8 rows would hold badly.

A row of integers has one step, set by its largest input. Where inputs are of unlike size and the
weights before the small ones large, as with mel energies, that step loses what counts. The inputs
are then multiplied by factors in front of the layer, and its weights divided by them, which changes
nothing in float (SmoothQuant, arXiv 2211.10438, there by one formula; here that is where a descent
by single factors starts, and they are taken only where they pay [C]). Factors are powers of two, so
that no float is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gq_tvm.ops.torch_rounding import quantize_activations
from gq_tvm.quantize.drop_in.replacement import factors_of
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer

#: Rows that the choice is made from.
SAMPLE = 256

#: Rounding to int8 is left alone where an output loses less than this share of its variance, some
#: ten times what it loses of normally distributed inputs.
USUAL = 5e-4

_GAIN = 0.25  # factors that would not halve what is lost twice are not worth it
_SMALLEST = 2.0**-40  # of the largest input
_STEPS = (4, -4, 2, -2, 1, -1)  # that the descent tries on a factor's logarithm
_ENOUGH = 0.995  # of the loss before a round through all factors: the last one
_MOST_ELEMENTS = 2**31  # of rows that are rounded for a layer


def costs(weight: Tensor, rows: Tensor) -> Tensor:
    """What errors of a product's inputs cost, all of its outputs counting alike.

    Args:
        weight: f32 [N, K].
        rows: f32 [M, K], some that it meets.

    Returns:
        f32 [M, K]; times the squares of errors, and summed, the mean over outputs of the share that
        is lost of their variance. All 0 where no output varies.
    """
    wanted = rows @ weight.T
    power = (wanted - wanted.mean(0)).square().sum(0)
    live = power > 0
    one = (weight[live].square() / power[live, None]).sum(0) / max(1, int(live.sum()))
    return one.expand(len(rows), -1)


def rounding_loss(rows: Tensor, cost: Tensor, factors: Tensor | None = None) -> float:
    """The share of its outputs that a product loses when its rows are rounded to int8.

    Args:
        rows: f32 [M, K].
        cost: f32 [M, K], of the squares of errors.
        factors: f32 [K], by which rows are multiplied before, and weights divided; None: 1.
    """
    scaled = rows if factors is None else rows * factors
    q, scale = quantize_activations(scaled, "int8")
    found = q * scale if factors is None else q * scale / factors
    return float(((found - rows).square() * cost).sum())


def factors(weight: Tensor, rows: Tensor, cost: Tensor, taps: int) -> tuple[Tensor | None, float]:
    """The factors of a layer's inputs, or None where they would not pay, and what is lost then.

    Args:
        weight: f32 [N, K].
        rows: f32 [M, K], some that it meets.
        cost: f32 [M, K]; the sum over it times the squares of errors is the share that is lost.
        taps: how many neighbours among the K are of one input, 1 or those of a convolution.

    Returns:
        f32 [K / taps], powers of two; and the share that rounding costs with them.
    """

    def lost(steps: Tensor) -> float:
        return rounding_loss(rows, cost, torch.exp2(steps).repeat_interleave(taps))

    before = lost(torch.zeros(rows.shape[1] // taps))
    if before < USUAL:
        return None, before
    least, best = min(((lost(one), one) for one in _tries(weight, rows, taps)), key=lambda t: t[0])
    left = _MOST_ELEMENTS // rows.numel()
    improving = True
    while improving and left > 0:
        last = least
        for at in range(len(best)):
            for step in _STEPS:
                moved = best.clone()
                moved[at] += step
                now, left = lost(moved), left - 1
                if now < least:
                    least, best = now, moved
                    break
            if left <= 0:
                break
        improving = least < _ENOUGH * last
    return (torch.exp2(best), least) if least < _GAIN * before else (None, before)


def _tries(weight: Tensor, rows: Tensor, taps: int) -> Iterator[Tensor]:
    """Logarithms of factors."""
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
            yield step.round()


def put_before(layer: QuantLayer, attribute: str, weight: Tensor, scale: Tensor) -> Tensor:
    """Let a layer multiply the inputs of a weight [N, K, ...] by factors.

    Returns:
        The weight divided by them.
    """
    scale = scale.to(weight.device)
    layer.register_buffer(factors_of(attribute), scale)
    return weight / scale.reshape(-1, *[1] * (weight.dim() - 2))
