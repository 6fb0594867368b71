"""A weight in a codebook that learns on from where a fit left it [C]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.quantisers.bucketize import Buckets
from gq_tvm.quantize.quantisers.quantizer import Quantizer, SnapToInt8, sum_by

# Adam's rates: of a scale's logarithm, of a level or zero point in units of the largest level, and
# of where a weight lies between two levels in units of their distance.
_SCALE, _LEVEL, _PLACE = 1e-2, 3e-3, 2e-2
#: Weights that learn gently have these times this.
GENTLY = 0.1


class Tuned(Quantizer):
    """A weight whose levels, scales, zero points and indices learn, each from where it is.

    The weight is ``scale * (level - zero)``. Each element has a place on the line of the levels,
    at first that of its level, and is of the nearest one; its gradient passes to the place
    straight through, and to levels, scales and zero points as it is. Outliers keep their values.

    Args:
        start: the weight as fitted, of one table.
        int8_grid: see ``Quantizer``.
        gently: whether it learns slowly, and its indices stay what they are.
    """

    scale: Tensor
    size: Tensor
    positions: Tensor | None
    kept: Tensor | None

    def __init__(self, start: WeightTensors, int8_grid: bool, gently: bool = False) -> None:
        scale = torch.ones(1) if start.scale is None else start.scale.detach()
        super().__init__(start.bits, int8_grid, scale.numel() > 1)
        table = start.codebook.detach().reshape(-1)
        self._start = [start]
        self.gently = gently
        self.register_buffer("size", table.abs().amax().clamp(min=torch.finfo(table.dtype).tiny))
        self.levels = nn.Parameter(table / self.size)
        self.place = nn.Parameter(self.levels.detach()[start.indices.flatten(1).int()])
        self.register_buffer("scale", scale.float())
        self.log_factor = nn.Parameter(torch.zeros_like(self.scale))
        zero = None if start.zero is None else start.zero.detach().float() / self.size
        self.zero = None if zero is None else nn.Parameter(zero)
        self.register_buffer("positions", start.positions)
        kept = None
        if start.positions is not None:
            kept = expand(start).detach().flatten()[start.positions.long()]
        self.register_buffer("kept", kept)

    @staticmethod
    def takes(weight: WeightTensors) -> bool:
        """Whether a weight can learn on: it has one table, and scales in floats."""
        floats = weight.scale is None or weight.scale.is_floating_point()
        return weight.codebook.dim() == 2 and len(weight.codebook) == 1 and floats

    def rates(self) -> list[dict[str, Any]]:
        """What learns, with Adam's rate for each, as optimisers take it."""
        gap = float(self.levels.detach().sort().values.diff().mean())
        slow = [self.levels] if self.zero is None else [self.levels, self.zero]
        share = GENTLY if self.gently else 1.0
        found: list[dict[str, Any]] = [
            {"params": [self.log_factor], "lr": share * _SCALE},
            {"params": slow, "lr": share * _LEVEL},
        ]
        return found if self.gently else [*found, {"params": [self.place], "lr": _PLACE * gap}]

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as its layer sees it; the gradient goes to what was fitted, not to it."""
        levels, indices = self._levels_and_indices()
        values = _Nearest.apply(self.place, levels, indices)
        if self.zero is not None:
            values = values - self._by_input(self.zero)
        values = values * self._by_input(self.scale * self.size * self.log_factor.exp())
        if self.positions is not None:
            assert self.kept is not None
            values = values.flatten().index_copy(0, self.positions.long(), self.kept)
        return values.view(self._start[0].indices.shape)

    @torch.no_grad()
    def harden(self, weight: Tensor) -> WeightTensors:
        """See ``Quantizer``; scales and zero points are of the dtypes of the start."""
        start = self._start[0]
        levels, indices = self._levels_and_indices()
        scale = start.scale
        if scale is not None:
            scale = (self.scale * self.log_factor.exp()).to(scale.dtype)
        zero = start.zero
        if zero is not None and self.zero is not None:
            zero = (self.zero * self.size).to(zero.dtype)
        indices = indices.to(torch.uint8).view(start.indices.shape)
        made = WeightTensors(indices, (levels * self.size)[None], scale, zero)
        if self.positions is None:
            return made
        assert self.kept is not None
        return made.coming_to(self.positions, self.kept)

    def _levels_and_indices(self) -> tuple[Tensor, Tensor]:
        """The levels, ascending, and the nearest for each place: f32 [2^bits], i32 [N, K]."""
        levels = self.levels.sort().values
        bounds = ((levels[1:] + levels[:-1]) / 2).detach()
        if self.int8_grid:
            levels = SnapToInt8.apply(levels)
        return levels, Buckets(bounds)(self.place.detach())

    def _by_input(self, values: Tensor) -> Tensor:
        if values.dim() == 1:
            return values[:, None]
        return values.repeat_interleave(self._start[0].group, 1)[:, : self.place.shape[1]]


class _Nearest(torch.autograd.Function):
    """``levels[indices]``; the gradient goes to the places unchanged and to the levels."""

    @staticmethod
    def forward(ctx: Any, place: Tensor, levels: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.levels = levels.numel()
        return levels.index_select(0, indices.reshape(-1)).view(place.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (indices,) = ctx.saved_tensors
        return grad, sum_by(indices, grad, ctx.levels), None
