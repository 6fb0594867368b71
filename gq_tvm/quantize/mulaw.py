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


def expand(y: Tensor, mu: float) -> Tensor:
    """``sign(y) ((1 + mu)^|y| - 1) / mu``: the inverse of ``compress``."""
    if mu == 0:
        return y
    return torch.expm1(y.abs() * math.log1p(mu)).mul(1 / mu).copysign(y)


def expand_slope(x: Tensor, mu: float) -> Tensor:
    """The slope of ``expand`` where its value is ``x``; the inverse is the slope of ``compress``.

    Taken at the value, not at the argument, it costs no transcendental function.
    """
    if mu == 0:
        return torch.ones_like(x)
    return x.abs().mul(mu).add(1).mul(math.log1p(mu) / mu)
