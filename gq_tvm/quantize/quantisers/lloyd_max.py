"""Lloyd-Max: the centroids that minimise the mean squared error of one-dimensional values.

A classic (Lloyd 1982, Max 1960); that GQ's centroids start there is our choice [C]. Lloyd's
iteration alone ends in whatever local minimum is near, so it begins at the exact minimum over a
few hundred places where cells might end: dynamic programming (Bellman 1973; on a line, sorted
values in sums that tell any cell's error at once, Wu 1991).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_ITERATIONS = 100
_REFILLS = 8
_CLIPS = 5
# Of the dynamic programming: levels a block has on average, bins it has at least, and bins of all
# blocks together. So it takes 2 to 30 ms, and errs by a few percent more than the exact minimum.
_BLOCK_LEVELS, _BLOCK_BINS, _BINS = 32, 128, 256


def lloyd_max(values: Tensor, levels: int) -> Tensor:
    """Centroids of ``values``, ascending.

    Where there are no more values than levels, each is a centroid, and those left over keep the
    midpoints of equal cells of [-1, 1]: so a weight of zeros starts to learn from somewhere.

    Args:
        values: float, any shape, finite.
        levels: number of centroids, at least 2.

    Returns:
        f64 [levels].
    """
    flat = values.detach().cpu().numpy().reshape(-1)
    found = Line(flat).centroids(levels) if flat.size else flat.astype(np.float64)
    spare = cell_midpoints(levels).numpy()
    for value in found if len(found) < levels else ():  # in place of the midpoint nearest to it
        spare = np.delete(spare, np.abs(spare - value).argmin())
    found = np.sort(np.concatenate([found, spare[: levels - len(found)]]))
    return torch.from_numpy(found).to(values.device)


def cell_midpoints(levels: int) -> Tensor:
    """The midpoints of ``levels`` equal cells of [-1, 1], f64: ``(2j + 1) / levels - 1``."""
    return (2 * torch.arange(levels, dtype=torch.float64) + 1) / levels - 1


class Line:
    """Values in order, with the running sums that tell the error of any cells at once.

    Args:
        values: float [n], at least one, finite, in any order.
        weights: what the square of each value's error counts, float [n], above 0; None: 1.
    """

    def __init__(self, values: NDArray, weights: F64 | None = None) -> None:
        if weights is None:
            self.values = np.sort(values).astype(np.float64)
            weights = np.ones(len(values))
        else:
            order = np.argsort(values, kind="stable")
            self.values, weights = values[order].astype(np.float64), weights[order]
        # Summed from 0 outwards, a sum never holds a value larger than those it is to tell apart.
        zero = int(np.searchsorted(self.values, 0.0))
        first = weights * self.values
        self._sums = [_outwards(t, zero) for t in (weights, first, first * self.values)]

    def centroids(self, levels: int) -> F64:
        """The values' centroids of least error, ascending: ``levels``, or all distinct values."""
        last = np.append(np.flatnonzero(np.diff(self.values)), len(self.values) - 1)
        if len(last) <= levels:
            return self.values[last]
        found = self.means(self._start(levels))
        for _ in range(_REFILLS):
            found = self._settle(found)
            if len(found) == levels:
                break
            found = self.refill(found, levels)
        return found

    def error(self, centroids: F64) -> float:
        """The sum of weighted squared distances to the nearest of ``centroids``, ascending."""
        weight, first, second = self.moments(self.edges(centroids))
        return max(float((second - centroids * (2 * first - centroids * weight)).sum()), 0.0)

    def error_beyond(self, limit: float) -> float:
        """What :meth:`error` comes to at least if no centroid is larger than ``limit``."""
        below, above = np.searchsorted(self.values, [-limit, limit])
        total = 0.0
        for ends, nearest in (([0, below], -limit), ([above, len(self.values)], limit)):
            weight, first, second = (float(t[0]) for t in self.moments(np.array(ends)))
            total += second - nearest * (2 * first - nearest * weight)
        return max(total, 0.0)

    def edges(self, centroids: F64) -> I64:
        """Where the cells of ``centroids``, ascending, begin and end: i64, one more than cells."""
        bounds = (centroids[1:] + centroids[:-1]) / 2
        inner = np.searchsorted(self.values, bounds, side="right")
        return np.concatenate([[0], inner, [len(self.values)]])

    def moments(self, edges: I64) -> list[F64]:
        """Of each cell, the sums of weight, weight x value and weight x value squared."""
        return [np.diff(running[edges]) for running in self._sums]

    def means(self, edges: I64) -> F64:
        """The mean of each cell that holds anything, ascending."""
        edges = _ends(edges)
        weight, first, _ = self.moments(edges)
        lowest, highest = self.values[edges[:-1]], self.values[edges[1:] - 1]
        return np.unique(np.clip(_mean(first, weight), lowest, highest))

    def refill(self, centroids: F64, levels: int) -> F64:
        """As many centroids as asked for: the cells of most error are split at their means."""
        few = 0
        while few < len(centroids) < levels:
            few = len(centroids)
            edges = _ends(self.edges(centroids))
            weight, first, second = self.moments(edges)
            splits = self.values[edges[1:] - 1] > self.values[edges[:-1]]
            mean = _mean(first, weight)
            error = np.where(splits, second - first * mean, -np.inf)
            worst = np.argsort(-error, kind="stable")[: levels - len(edges) + 1]
            worst = worst[splits[worst]]
            at = np.searchsorted(self.values, mean[worst], side="right")
            # A mean that rounding puts beside its cell still has to part it.
            at = np.clip(at, edges[worst] + 1, edges[worst + 1] - 1)
            centroids = self.means(np.unique(np.concatenate([edges, at])))
        return centroids

    def _settle(self, centroids: F64) -> F64:
        """Lloyd's iteration; a cell that comes to hold nothing is dropped."""
        edges = self.edges(centroids)
        for _ in range(_ITERATIONS):
            before, centroids = edges, self.means(edges)
            edges = self.edges(centroids)
            if np.array_equal(edges, before):
                break
        return centroids

    def _start(self, levels: int) -> I64:
        """Cells of least error among those that end at a few hundred likely places.

        Over so many levels that it would take long, the line is cut into blocks of equal share
        and each solved for any number of levels. A block gains less by each further one, so
        giving every level where it gains most is best.
        """
        blocks = -(-levels // _BLOCK_LEVELS)
        bins = max(_BLOCK_BINS, _BINS // blocks)
        places = self._places(blocks * bins)
        bins = -(-(len(places) - 1) // blocks)
        most = min(levels, bins)
        places = np.append(places, np.full(blocks * bins + 1 - len(places), len(self.values)))
        ends = places[np.arange(blocks)[:, None] * bins + np.arange(bins + 1)]
        cost = self._costs(ends)
        error = cost[:, :, 0]
        errors, choices = [error[:, -1]], []
        for _ in range(most - 1):
            through = cost + error[:, None, :]
            choice = through.argmin(-1)
            error = np.take_along_axis(through, choice[..., None], -1)[..., 0]
            errors.append(error[:, -1])
            choices.append(choice)
        gains = np.minimum.accumulate(-np.diff(errors, axis=0), axis=0)
        given = np.argsort(-gains, axis=None, kind="stable")[: levels - blocks] % blocks
        edges = [np.array([0, len(self.values)])]
        for block, extra in enumerate(np.bincount(given, minlength=blocks)):
            at = bins
            for choice in choices[:extra][::-1]:
                at = choice[block, at]
                edges.append(ends[block, at : at + 1])
            edges.append(ends[block, -1:])
        return np.unique(np.concatenate(edges))

    def _places(self, bins: int) -> I64:
        """Edges of at most so many bins, close together where centroids would be.

        Centroids lie best as the cube root of the density, where there are many (Panter and Dite
        1951). Each gap between two values is a sample of the density, and bins have equal shares
        of what that makes in all; but one gap makes one edge at most.
        """
        gaps = np.diff(self.values)
        gaps *= gaps * np.diff(self._sums[0])[1:]
        share = np.cbrt(gaps, out=gaps)
        for _ in range(_CLIPS):
            np.minimum(share, share.sum() / bins, out=share)
        running = share.cumsum(out=share)
        inner = np.searchsorted(running, np.linspace(0, running[-1], bins + 1)[1:-1]) + 1
        return np.unique(np.concatenate([[0], inner, [len(self.values)]]))

    def _costs(self, ends: I64) -> F64:
        """The error [..., j, i] of a cell from one of ``ends`` [..., i] to another."""
        weight, first, second = (
            running[ends][..., :, None] - running[ends][..., None, :] for running in self._sums
        )
        cost = np.maximum(second - first * first / np.where(weight > 0, weight, 1), 0)
        return np.where(ends[..., :, None] >= ends[..., None, :], cost, np.inf)


def _outwards(terms: F64, zero: int) -> F64:
    """Running sums of ``terms``, 0 at the place ``zero``: one more than terms."""
    return np.concatenate([-terms[:zero][::-1].cumsum()[::-1], [0.0], terms[zero:].cumsum()])


def _mean(first: F64, weight: F64) -> F64:
    """``first / weight``, and 0 where the weights are lost among those of other cells."""
    return first / np.where(weight > 0, weight, np.inf)


def _ends(edges: I64) -> I64:
    """The edges of the cells that hold anything."""
    return edges[np.append(np.diff(edges) > 0, True)]
