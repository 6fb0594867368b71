"""What every weight quantiser is: a module that stands between a weight and its layer.

While a model trains, ``forward`` gives the values the layer multiplies by; for deployment,
``harden`` gives a weight in a codebook. The choice of int8 grids is ours [C].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.ops.torch_rounding import quantize_rows
from gq_tvm.ops.torch_weight import Operand, WeightTensors, operand


@dataclass
class Hardness:
    """How far a model's quantisers have hardened; one object, shared by all of them.

    ``k`` is alpha times the spacing of the centroids: the hardness that means the same at every
    bit-width [C]. Infinite: each weight takes its nearest centroid. ``applied`` is False on
    training steps that use the float weights.
    """

    k: float = math.inf
    applied: bool = True

    @property
    def hard(self) -> bool:
        """Whether weights take their nearest centroid."""
        return math.isinf(self.k)


class Quantizer(nn.Module):
    """Base of the quantisers of one weight.

    Args:
        bits: 1 to 8.
        int8_grid: the layer's activations are integers, so hard centroids lie on an int8 grid.
        per_row: a codebook scale for each row (first axis) in place of one for the tensor.
    """

    hardness: Hardness

    def __init__(self, bits: int, int8_grid: bool, per_row: bool) -> None:
        super().__init__()
        self.bits = bits
        self.int8_grid = int8_grid
        self.per_row = per_row
        self.hardness = Hardness()

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The quantised weight as floats, differentiable, as hard as ``hardness`` says."""

    @abstractmethod
    def harden(self, weight: Tensor) -> WeightTensors:
        """The weight for deployment: one table, and a scale for the tensor or each row."""

    def operand(self, weight: Tensor, activation: str) -> Operand:
        """The weight as deployment multiplies rows of that kind by it."""
        return operand(self.harden(weight), activation)

    def largest(self, weight: Tensor) -> Tensor:
        """max|weight|, detached, of the tensor or of each row; broadcasts against the weight."""
        weight = weight.detach()
        if not self.per_row:
            return weight.abs().amax().view([1] * weight.dim())
        return weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)

    def extra_repr(self) -> str:  # noqa: D102
        return f"bits={self.bits}" + (", per_row=True" if self.per_row else "")


class SnapToInt8(torch.autograd.Function):
    """Values [2^bits] onto the 255 steps of an int8 grid whose largest step is max|value|.

    Below 2^-100 all become 0, as ``ops.rounding.quantize_rows`` has it. Straight through: the
    gradient passes as if nothing was rounded.
    """

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:  # noqa: D102
        # As the kernel does it, so that no value near a half goes to another step there.
        steps, scale = quantize_rows(values)
        return steps * scale

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # noqa: D102
        return grad


def sum_by(indices: Tensor, values: Tensor, count: int) -> Tensor:
    """The sums of the values, float [...], that have each index, i32 [...]: [count]."""
    flat = indices.reshape(-1)
    return torch.bincount(flat, values.reshape(-1), minlength=count).to(values.dtype)


def check_finite(name: str, weight: Tensor) -> None:
    """Refuse a weight that has diverged."""
    if not torch.isfinite(weight).all():
        raise Error(f"{name}: the weight holds NaN or infinity; it cannot be quantised.")
