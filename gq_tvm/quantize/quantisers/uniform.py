"""Uniform quantisers to compare GQ with: int8 QAT, and a learned step size.

``Uniform`` is ordinary quantisation-aware training with a fixed grid, the kind of baseline [P]
names. ``LearnedStep`` follows LSQ (Esser et al., arXiv 1902.08153): the step learns, its gradient
scaled by 1 / sqrt(values * largest level). A uniform grid is a codebook too, so both deploy as
any other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.quantisers.quantizer import Quantizer, SnapToInt8


class Uniform(Quantizer):
    """``step * level`` with ``step = max|W| / 127``, rounded straight through.

    Args:
        weight: float [N, ...].
        bits: 8.
        int8_grid: see ``Quantizer``; the grid is the same either way.
        per_row: see ``Quantizer``.
    """

    levels: Tensor

    def __init__(
        self, weight: Tensor, bits: int, int8_grid: bool = False, per_row: bool = False
    ) -> None:
        super().__init__(bits, int8_grid, per_row)
        self.register_buffer("levels", symmetric_levels(bits).to(weight), persistent=False)

    def step(self, weight: Tensor) -> Tensor:
        """The distance of two levels; broadcasts against the weight."""
        return self.largest(weight) / self.levels.abs().max()

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as its layer sees it in training: same shape, differentiable."""
        if not self.hardness.applied:
            return weight
        step = self.step(weight)
        ratio = weight / torch.where(step > 0, step, 1)
        value = step * _Round.apply(ratio, self.levels)
        return _Deployed.apply(value, expand(self.harden(weight)).to(value.dtype))

    @torch.no_grad()
    def harden(self, weight: Tensor) -> WeightTensors:
        """See ``Quantizer``; the scale is the step."""
        step = self.step(weight)
        ratio = weight / torch.where(step > 0, step, 1)
        level = _nearest_level(ratio, self.levels)
        # The lowest code repeats the level above it where levels are one fewer than codes.
        codes = torch.cat([self.levels[:1]] * (2**self.bits - len(self.levels)) + [self.levels])
        offset = 2**self.bits - len(self.levels) - self.levels[0]
        shape = SnapToInt8.apply(codes) if self.int8_grid else codes
        indices = (level + offset).to(torch.uint8)
        return WeightTensors(indices, shape[None].float(), step.reshape(-1).float())


class LearnedStep(Uniform):
    """LSQ: as ``Uniform``, but the step is a parameter, by its logarithm [C].

    So it stays above 0, and an optimiser of Adam's kind, to which LSQ's scale of gradients means
    nothing, moves it by the same share of itself at every bit-width.

    Args:
        weight: float [N, ...]; the step starts at ``2 mean|W| / sqrt(largest level)``.
        bits: 1 to 8.
        int8_grid: see ``Quantizer``; levels are then rounded to the int8 grid.
        per_row: a step for each row.
    """

    def __init__(
        self, weight: Tensor, bits: int, int8_grid: bool = False, per_row: bool = False
    ) -> None:
        super().__init__(weight, bits, int8_grid, per_row)
        top = float(self.levels[-1])
        size = weight.detach().abs()
        axes = tuple(range(1 if per_row else 0, weight.dim()))
        start = 2 * size.mean(axes) / math.sqrt(max(top, 1))
        # Rows of zeros have a step too, one that int8 grids do not take for 0.
        self.log_step = nn.Parameter(start.clamp(min=2.0**-80).log().reshape(-1))
        self._gradient_scale = 1 / math.sqrt(weight.numel() / self.log_step.numel() * max(top, 1))

    def step(self, weight: Tensor) -> Tensor:
        """The learned step; broadcasts against the weight."""
        scaled = self.log_step * self._gradient_scale
        step = (scaled + (self.log_step - scaled).detach()).exp()
        return step.view([-1] + [1] * (weight.dim() - 1))


def symmetric_levels(bits: int) -> Tensor:
    """The levels of a signed ``bits``-bit grid, f32: +-1/2; -2^(bits-1) ... 2^(bits-1) - 1; +-127.

    Eight bits leave -128 out, so that the levels are those of an int8 grid.
    """
    if bits == 1:
        return torch.tensor([-0.5, 0.5])
    top = 2 ** (bits - 1) - 1
    return torch.arange(-top if bits == 8 else -top - 1, top + 1, dtype=torch.float32)


def _nearest_level(ratio: Tensor, levels: Tensor) -> Tensor:
    between = levels[0] - levels[0].floor()  # levels may lie at halves
    return (ratio - between).round().add(between).clamp(levels[0], levels[-1])


class _Round(torch.autograd.Function):
    """The nearest level; the gradient passes unchanged between the outermost levels."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, ratio: Tensor, levels: Tensor) -> Tensor:
        ctx.save_for_backward(ratio, levels)
        return _nearest_level(ratio, levels)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        ratio, levels = ctx.saved_tensors  # type: ignore[attr-defined]
        inside = (ratio >= levels[0]) & (ratio <= levels[-1])
        return grad * inside, None


class _Deployed(torch.autograd.Function):
    """The values deployed, bit for bit, with the gradient of those that training computes."""

    @staticmethod
    def forward(ctx: object, value: Tensor, deployed: Tensor) -> Tensor:
        return deployed

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
