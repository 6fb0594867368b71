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
