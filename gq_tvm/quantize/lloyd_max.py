"""Lloyd-Max: the centroids that minimise the mean squared error of one-dimensional values.

A classic (Lloyd 1982, Max 1960); that GQ's centroids start there is our choice [C].
"""

from __future__ import annotations

import torch
from torch import Tensor

_ITERATIONS = 100
_DENSITY_BINS = 1024


def lloyd_max(values: Tensor, levels: int) -> Tensor:
    """Centroids of ``values``, ascending.

    Cells that hold no value keep the place they started from, and values that are all equal
    give the midpoints of equal cells of [-1, 1], so a centroid never starts as NaN and a one-bit
    codebook never starts at the two extremes.

    Args:
        values: float, any shape, finite.
        levels: number of centroids, at least 2.

    Returns:
        f64 [levels].
    """
    ordered = values.detach().double().flatten().sort().values
    if ordered.numel() == 0 or ordered[0] == ordered[-1]:
        return cell_midpoints(levels).to(ordered.device)
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centroids = _optimal_density(ordered, levels)
    close = 1e-7 * (ordered[-1] - ordered[0])
    for _ in range(_ITERATIONS):
        bounds = torch.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2, right=True)
        edges = torch.cat([bounds.new_zeros(1), bounds, bounds.new_tensor([ordered.numel()])])
        count = edges.diff()
        mean = (sums[edges[1:]] - sums[edges[:-1]]) / count.clamp(min=1)
        moved = torch.where(count > 0, mean, centroids).sort().values
        step = (moved - centroids).abs().max()
        centroids = moved
        if step <= close:
            break
    return centroids


def cell_midpoints(levels: int) -> Tensor:
    """The midpoints of ``levels`` equal cells of [-1, 1], f64: ``(2j + 1) / levels - 1``."""
    return (2 * torch.arange(levels, dtype=torch.float64) + 1) / levels - 1


def _optimal_density(ordered: Tensor, levels: int) -> Tensor:
    """Centroids spread as the cube root of the density, which is optimal for many levels.

    Panter and Dite, 1951. Started elsewhere, Lloyd's iteration stays in a poorer local minimum.
    """
    low, high = float(ordered[0]), float(ordered[-1])
    density = torch.histc(ordered.cpu(), _DENSITY_BINS, low, high)
    mass = density.pow(1 / 3).cumsum(0)
    share = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels * mass[-1]
    at = torch.searchsorted(mass, share).clamp(max=_DENSITY_BINS - 1)
    return (low + (at + 0.5) * (high - low) / _DENSITY_BINS).to(ordered.device)
