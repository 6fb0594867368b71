"""Integer activations while training: what the kernel will round, rounded already [C]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gq_tvm.ops.torch_rounding import quantize_activations, row_scales

#: Largest level of an activation of few bits, in steps; beyond one more step it is saturated.
_LARGEST = {"int1": 1, "int2": 3}


class _FakeQuantizeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inv, scale = row_scales(x)
        return (x * inv).round_().mul_(scale)  # NaN wherever the row is not finite

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _FakeQuantizeFewBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str) -> Tensor:
        q, scale = quantize_activations(x, activation)
        ctx.save_for_backward(x.abs() <= scale * (_LARGEST[activation] + 1))
        return q.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grad, 0.0), None


def fake_quantize_rows(x: Tensor, activation: str) -> Tensor:
    """Each row (last axis) rounded to integers and back, with a straight-through gradient.

    At 8 bits no element is out of range and the gradient passes whole. At 1 and 2 bits it is
    clipped: it passes where rounding moves an element by a step at most, up to 2 and 4 steps, and
    is 0 beyond. The steps themselves count as constants.

    Args:
        x: float [..., K].
        activation: ``"int8"``, ``"int2"`` or ``"int1"``; with ``"fp32"`` x comes back.

    Returns:
        ``q * scale`` with q and scale as in ``ops.rounding.ROW_QUANTIZERS``, shape of ``x``.
    """
    if activation == "fp32":
        return x
    if activation == "int8":
        return _FakeQuantizeRows.apply(x)
    return _FakeQuantizeFewBits.apply(x, activation)
