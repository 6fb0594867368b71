"""The mu-law companding curve.

[P] says that centroids live in a mu-law constrained space; [A] gives the curve and uses mu = 63
or 255. mu = 0 is the identity here, which lets one quantiser serve the linear space too [C].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def compress(x: Tensor, mu: float) -> Tensor:
    """``sign(x) ln(1 + mu |x|) / ln(1 + mu)``: [-1, 1] onto itself, finer around zero."""
    if mu == 0:
        return x
    return torch.log1p(x.abs() * mu).mul(1 / math.log1p(mu)).copysign(x)


def expand(y: Tensor, mu: float | Tensor) -> Tensor:
    """``sign(y) ((1 + mu)^|y| - 1) / mu``: the inverse of ``compress``.

    A ``mu`` that is a tensor [] gets its gradient.
    """
    if isinstance(mu, Tensor):
        return torch.expm1(y.abs() * mu.log1p()).div(mu).copysign(y)
    if mu == 0:
        return y
    return torch.expm1(y.abs() * math.log1p(mu)).mul(1 / mu).copysign(y)


def compress_with_slope(x: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """``compress(x)``, bit for bit, and its derivative, both new tensors."""
    if mu == 0:
        return x.clone(), torch.ones_like(x)
    size = x.abs().mul_(mu)
    value = torch.log1p(size).mul_(1 / math.log1p(mu)).copysign_(x)
    return value, size.add_(1).reciprocal_().mul_(mu / math.log1p(mu))


def expand_with_slope(y: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """``expand(y)``, bit for bit, and its derivative, both new tensors."""
    if mu == 0:
        return y.clone(), torch.ones_like(y)
    size = y.abs().mul_(math.log1p(mu)).expm1_()
    value = (size * (1 / mu)).copysign_(y)
    return value, size.add_(1).mul_(math.log1p(mu) / mu)


def compress_by_mu(x: Tensor, value: Tensor, slope: Tensor, mu: float) -> Tensor:
    """The derivative of ``compress(x)`` with respect to mu, from its value and slope; mu > 0."""
    return (x * slope).div_(mu).sub_(value, alpha=1 / (math.log1p(mu) * (1 + mu)))


def expand_by_mu(y: Tensor, value: Tensor, slope: Tensor, mu: float) -> Tensor:
    """The derivative of ``expand(y)`` with respect to mu, from its value and slope; mu > 0."""
    return (y * slope).mul_(1 / (math.log1p(mu) * (1 + mu))).sub_(value, alpha=1 / mu)
