"""Which cell a value falls in, fast enough to run over all weights at every training step."""

from __future__ import annotations

import torch
from torch import Tensor

_CELLS = 2048
_MOST_COMPARISONS = 4


class Buckets:
    """Counts how many bounds lie below a value; exact.

    Same as ``torch.bucketize``, several times faster on a CPU: a table over equal slices of the
    range says how many bounds lie in slices below, so only bounds in the value's own slice are
    compared. Slices come from one monotone expression for values and bounds alike, so rounding
    cannot misplace a value.

    Args:
        bounds: float [n], ascending, without gradient.
    """

    def __init__(self, bounds: Tensor) -> None:
        self._bounds = bounds.contiguous()
        self._comparisons = 0
        if bounds.device.type != "cpu" or bounds.numel() < 2 or not bounds[0] < bounds[-1]:
            return
        self._slope = _CELLS / float(bounds[-1] - bounds[0])
        self._offset = -float(bounds[0]) * self._slope
        population = torch.bincount(self._slices(bounds), minlength=_CELLS + 1)
        most = int(population.max())
        self._comparisons = most if most <= _MOST_COMPARISONS else 0
        self._below = (population.cumsum(0) - population).int()
        # A last bound that nothing exceeds, for values above all others.
        self._fence = torch.cat([bounds, bounds.new_full((1,), torch.inf)])

    def __call__(self, values: Tensor) -> Tensor:
        """The count for each value: i32, contiguous, the shape of ``values``, in [0, n]."""
        if not self._comparisons:
            return torch.bucketize(values.contiguous(), self._bounds, out_int32=True)
        flat = values.reshape(-1)
        count = self._below.index_select(0, self._slices(flat))
        for _ in range(self._comparisons):
            count += flat > self._fence.index_select(0, count)
        return count.view(values.shape)

    def _slices(self, x: Tensor) -> Tensor:
        # Clamped again as integers because NaN, and only NaN, slips through the first time.
        scaled = x.mul(self._slope).add_(self._offset).clamp_(0, _CELLS)
        return scaled.int().clamp_(0, _CELLS)
