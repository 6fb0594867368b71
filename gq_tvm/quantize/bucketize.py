"""Which cell a value falls in, fast enough to run over all weights at every training step."""

from __future__ import annotations

import torch
from torch import Tensor

_CELLS = 2048
_MOST_COMPARISONS = 4


def bucketize(values: Tensor, bounds: Tensor) -> Tensor:
    """How many ``bounds`` lie below each value; exact.

    Same as ``torch.bucketize``, several times faster on a CPU: a table over equal slices of the
    range says how many bounds lie in slices below, so only bounds in the value's own slice are
    compared. Slices come from one monotone expression for values and bounds alike, so rounding
    cannot misplace a value.

    Args:
        values: float, any shape.
        bounds: same dtype [n], ascending.

    Returns:
        i32, the shape of ``values``, in [0, n].
    """
    n = bounds.numel()
    if n == 0:
        return torch.zeros(values.shape, dtype=torch.int32, device=values.device)
    if n == 1:
        return (values > bounds).int()
    if values.device.type != "cpu" or not bounds[0] < bounds[-1]:
        return torch.bucketize(values, bounds, out_int32=True)
    slope = _CELLS / float(bounds[-1] - bounds[0])
    offset = -float(bounds[0]) * slope

    def slices(x: Tensor) -> Tensor:
        # Clamped again as integers because NaN, and only NaN, slips through the first time.
        return x.mul(slope).add_(offset).clamp_(0, _CELLS).int().clamp_(0, _CELLS)

    population = torch.bincount(slices(bounds), minlength=_CELLS + 1)
    comparisons = int(population.max())
    if comparisons > _MOST_COMPARISONS:
        return torch.bucketize(values, bounds, out_int32=True)
    below = (population.cumsum(0) - population).int()
    flat = values.reshape(-1)
    count = below.index_select(0, slices(flat))
    # A last bound that nothing exceeds, for values above all others.
    fence = torch.cat([bounds, bounds.new_full((1,), torch.inf)])
    for _ in range(comparisons):
        count += flat > fence.index_select(0, count)
    return count.view(values.shape)
