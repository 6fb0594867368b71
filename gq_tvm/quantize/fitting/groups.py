"""Groups of weights that share a scale, and the scales of least error for given centroids [C]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.ops.rounding import SMALLEST_LIVE
from gq_tvm.quantize.fitting.metric import Metric
from gq_tvm.quantize.quantisers.bucketize import Buckets
from gq_tvm.quantize.quantisers.lloyd_max import F64

_CHUNK = 2**16  # weights whose scales are searched at once, so that they stay in the cache
# Of the largest weight; those of long rows, which may hold an outlier, go on for longer.
_COARSE = tuple(2.0 ** (-k / 3) for k in range(-1, 7))
_SMALL = tuple(2.0**-k for k in range(3, 13))
_FINE = tuple(2.0 ** (k / 12) for k in (0, -2, -1, 1, 2))
_LONG = 128


class Scales(NamedTuple):
    """Scales f64 [G] and errors f64 [G], both relative to the sizes of groups."""

    relative: Tensor
    error: Tensor


@dataclass(frozen=True)
class Groups:
    """Groups of weights, G of them, row by row.

    Attributes:
        values: f32 [G, group], of largest magnitude 1.
        h: f32 [G, group], what the squares of their errors count among one another; 0 where a
            short group is filled up, and for what is kept apart.
        size: f64 [G], the largest magnitude; 0 below 2^-100.
        worth: f64 [G], what the error of a group counts, its size squared and more.
    """

    values: Tensor
    h: Tensor
    size: Tensor
    worth: Tensor

    @staticmethod
    def of(weight: Tensor, metric: Metric, group: int, apart: Tensor | None = None) -> Groups:
        """The groups of a weight.

        Args:
            weight: f32 [N, K].
            metric: what its errors count.
            group: inputs of a group; 0: each row is one.
            apart: bool [N, K], what has no error; None: nothing.
        """
        width = weight.shape[1]
        group = min(group or width, width)
        fill = -width % group
        h = metric.h.float().expand(weight.shape)
        h = F.pad(h if apart is None else torch.where(apart, 0.0, h), (0, fill))
        counts = metric.counts.repeat_interleave((width + fill) // group)
        values = F.pad(weight, (0, fill)).reshape(-1, group)
        return Groups._sized(values, h.reshape(-1, group), counts)

    @staticmethod
    def _sized(values: Tensor, h: Tensor, counts: Tensor) -> Groups:
        size = torch.where(h > 0, values, 0.0).abs().amax(1).double()
        size = torch.where(size >= float(SMALLEST_LIVE), size, 0.0)
        by = torch.where(size > 0, size, torch.inf).float()[:, None]
        return Groups(values / by, h, size, size**2 * counts)

    def take(self, at: Tensor) -> Groups:
        """Those named, i64 [M] or bool [G]."""
        return Groups(self.values[at], self.h[at], self.size[at], self.worth[at])

    def some(self, most: int) -> Groups:
        """So many weights in groups that stand for all."""
        count = max(1, most // self.values.shape[1])
        if count >= len(self.values):
            return self
        at = np.random.default_rng(0).choice(len(self.values), count, replace=False)
        return self.take(torch.from_numpy(np.sort(at)))

    def without(self, apart: Tensor) -> Groups:
        """With some weights kept apart, bool [G, group]."""
        size = torch.where(self.size > 0, self.size, 1.0)
        values = self.values * size.float()[:, None]
        return Groups._sized(values, torch.where(apart, 0.0, self.h), self.worth / size**2)

    def scales(self, centroids: F64) -> Scales:
        """The scales that err least, of either sign."""
        signs = (1.0,) if np.allclose(centroids, -centroids[::-1]) else (1.0, -1.0)
        factors = _COARSE + (_SMALL if self.values.shape[1] > _LONG else ())
        ones = torch.ones_like(self.size)
        found = self._search(centroids, ones, [s * f for f in factors for s in signs])
        return self._search(centroids, found.relative, _FINE)

    def error(self, scales: Scales) -> float:
        """What all groups err with their scales."""
        return float((scales.error * self.worth).sum())

    def better(self, centroids: F64, relative: Tensor) -> Scales:
        """Scales near relative ones, f64 [G]."""
        return self._search(centroids, relative, _FINE)

    def _search(self, centroids: F64, start: Tensor, factors: Sequence[float]) -> Scales:
        """The best of multiples of scales, each refined by least squares."""
        table = torch.from_numpy(centroids).float()
        nearest = Buckets((table[1:] + table[:-1]) / 2)
        best, least = torch.empty_like(start), torch.empty_like(start)
        step = max(1, _CHUNK // self.values.shape[1])
        for first in range(0, len(best), step):
            part = slice(first, first + step)
            values, h = self.values[part], self.h[part]
            scale = start[part].float()
            weighted = values * h
            chosen, error = scale, torch.full_like(scale, torch.inf)
            for factor in factors:
                taken = table[nearest(values / (scale * factor)[:, None])]
                along, square = (weighted * taken).sum(1), (taken * taken * h).sum(1)
                fitted = torch.where(square > 0, along / square, scale * factor)
                now = (taken.mul_(-fitted[:, None]).add_(values).square_() * h).sum(1)
                better = (now < error) & (fitted != 0)
                chosen = torch.where(better, fitted, chosen)
                error = torch.where(better, now, error)
            best[part], least[part] = chosen.double(), error.double()
        return Scales(best, least)
