"""How rows of floats become rows of integers, in tensors: ``rounding`` bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from gq_tvm.ops.rounding import INT2_STEP, MEAN_STEPS, SMALLEST_LIVE

_SMALLEST_LIVE = float(SMALLEST_LIVE)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row (last axis) as ``rounding.quantize_rows``, in tensors.

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` f32 [..., K] holding integers in [-127, 127], and ``scale`` f32 [..., 1], NaN for a
        row with NaN or infinity.
    """
    inv, scale = row_scales(x)
    # 0 * infinity is NaN, so rows that are not finite are cleared, not scaled away.
    return torch.where(torch.isfinite(scale), x * inv, 0.0).round_(), scale


def row_scales(x: Tensor) -> tuple[Tensor, Tensor]:
    """What a row is multiplied by to become integers, and what brings it back.

    Args:
        x: f32 [..., K].

    Returns:
        ``inv`` and ``scale``, f32 [..., 1]; both 0 below 2^-100, 0 and NaN with NaN or infinity.
    """
    amax = x.abs().amax(dim=-1, keepdim=True)
    finite = torch.isfinite(amax)
    live = finite & (amax >= _SMALLEST_LIVE)
    inv = torch.where(live, _divide(127, amax), 0.0)
    return inv, torch.where(live, amax / 127, torch.where(finite, 0.0, torch.nan))


def _divide(number: float, by: Tensor) -> Tensor:
    """``number / by``, rounded once: PyTorch's own operator multiplies by a rounded reciprocal."""
    return torch.div(torch.tensor(number, dtype=by.dtype, device=by.device), by)


def mean_magnitudes(x: Tensor) -> Tensor:
    """The mean of |x| over each row as ``rounding.mean_magnitudes``: f32 [..., K] -> [..., 1]."""
    magnitudes = x.abs()
    amax = magnitudes.amax(dim=-1, keepdim=True)
    finite = torch.isfinite(amax)
    live = finite & (amax >= _SMALLEST_LIVE)
    on_grid = magnitudes.mul_(torch.where(live, _divide(MEAN_STEPS, amax), 0.0)).round_()
    total = torch.where(live, on_grid, 0.0).sum(dim=-1, keepdim=True, dtype=torch.float64)
    mean = (amax / MEAN_STEPS) * (total.float() / x.shape[-1])
    return torch.where(live, mean, torch.where(finite, 0.0, torch.nan))


def quantize_activations(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Round each row (last axis) as ``rounding.ROW_QUANTIZERS[activation]``, in tensors.

    Args:
        x: f32 [..., K].
        activation: ``"int8"``, ``"int2"`` or ``"int1"``.

    Returns:
        ``q`` f32 [..., K] holding integers, and ``scale`` f32 [..., 1].
    """
    if activation == "int8":
        return quantize_rows(x)
    scale = mean_magnitudes(x)
    if activation == "int1":
        return torch.where(x < 0, -1.0, 1.0), scale
    scale = scale * INT2_STEP
    q = torch.where(x.abs() > scale + scale, 3.0, 1.0)
    return torch.where(x < 0, -q, q), scale
