"""Int8 activations while training: what the kernel will round, rounded already [C]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gq_tvm.ops.torch_ops import row_scales


class _FakeQuantizeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inv, scale = row_scales(x)
        return (x * inv).round_().mul_(scale)  # NaN wherever the row is not finite

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def fake_quantize_rows(x: Tensor) -> Tensor:
    """Each row (last axis) rounded to int8 and back; the gradient passes straight through.

    Args:
        x: float [..., K].

    Returns:
        ``q * scale`` with q and scale as in ``ops.reference.quantize_rows``, shape of ``x``.
    """
    return _FakeQuantizeRows.apply(x)
