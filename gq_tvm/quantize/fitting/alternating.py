"""Centroids and scales found by turns, each the best for the other [C].

With the scales given, centroids are a weighted k-means of one dimension; with the centroids given,
each scale is the best of many tried, refined by least squares. Input k's errors weigh ``h[k]``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gq_tvm.ops.rounding import SMALLEST_LIVE
from gq_tvm.quantize.fitting.book import Book
from gq_tvm.quantize.quantisers.bucketize import Buckets
from gq_tvm.quantize.quantisers.int8_grid import LARGEST, on_grid
from gq_tvm.quantize.quantisers.lloyd_max import F64, Line

_TURNS = 4
_SOME = 2**17  # weights that the centroids are found from
_CHUNK = 2**16  # weights whose scales are searched at once, so that they stay in the cache
_COARSE = tuple(2.0 ** (-k / 4) for k in range(-2, 13))
_FINE = tuple(2.0 ** (k / 16) for k in range(-3, 4))


class Groups:
    """A weight parted into groups that share a scale.

    Args:
        weight: f32 [N, K].
        h: f64 [K], above 0.
        counts: f64 [N], what the error of each row counts, above 0.
        group: inputs of a group; 0: a row is one.

    Attributes:
        size: f64 [N, J], the largest magnitude of each group; 0 below 2^-100.
        values: f32 [N, J, group], over the size.
        h: f32 [J, group]; 0 where a short group is filled up.
        worth: f64 [N, J], what the square of a relative error counts, its size squared and more.
    """

    def __init__(self, weight: Tensor, h: Tensor, counts: Tensor, group: int) -> None:
        group = min(group or weight.shape[1], weight.shape[1])
        fill = -weight.shape[1] % group
        parted = torch.nn.functional.pad(weight, (0, fill)).unflatten(1, (-1, group))
        size = parted.abs().amax(-1).double()
        self.size = torch.where(size >= float(SMALLEST_LIVE), size, 0.0)
        by = torch.where(self.size > 0, self.size, 1.0).float()
        self.values = torch.where(self.size[..., None] > 0, parted / by[..., None], 0.0)
        self.h = torch.nn.functional.pad(h.float(), (0, fill)).view(-1, group)
        self.worth = self.size**2 * counts[:, None]

    def some(self, most: int) -> Groups:
        """Rows that stand for all."""
        rows = max(1, most // self.values[0].numel())
        if rows >= len(self.values):
            return self
        chosen = np.random.default_rng(0).choice(len(self.values), rows, replace=False)
        at = torch.from_numpy(np.sort(chosen))
        part = object.__new__(Groups)
        part.size, part.values, part.h = self.size[at], self.values[at], self.h
        part.worth = self.worth[at]
        return part


def alternate(groups: Groups, group: int, levels: int, int8_grid: bool, start: Book) -> Book:
    """Centroids and scales for a weight in groups.

    Args:
        groups: what they are for.
        group: inputs of a group, 0 for rows.
        levels: at most so many centroids.
        int8_grid: whether they lie on an int8 grid.
        start: what is known to be good, with one scale.

    Returns:
        Scales not yet rounded to what they are stored as.
    """
    some = groups.some(_SOME)
    signed = torch.where(some.values.amax(-1) >= -some.values.amin(-1), 1.0, -1.0).double()
    found = []
    for relative in (torch.ones_like(signed), signed):
        for turn in range(_TURNS):
            centroids = _centroids(some, relative, levels, int8_grid)
            relative, error = search(some, centroids, relative, _FINE if turn else _COARSE)
        found.append((float((error * some.worth).sum()), centroids))
    candidates = [min(found, key=lambda one: one[0])[1], start.centroids]
    books = []
    for centroids in candidates:
        ones = torch.ones_like(groups.size)
        relative, error = search(groups, centroids, ones, _COARSE)
        relative, error = search(groups, centroids, relative, _FINE)
        total = float((error * groups.worth).sum())
        books.append((total, Book(centroids, relative * groups.size, group)))
    return min(books, key=lambda one: one[0])[1]


def _centroids(groups: Groups, relative: Tensor, levels: int, int8_grid: bool) -> F64:
    live = (groups.size > 0)[..., None] & (groups.h > 0)
    values = (groups.values / relative[..., None]).expand_as(live)[live]
    weights = groups.h * (relative**2 * groups.worth / groups.worth.max())[..., None]
    line = Line(values.double().numpy(), weights[live].double().numpy() + 1e-30)
    return shape(line, levels, int8_grid)[0]


def shape(line: Line, levels: int, int8_grid: bool) -> tuple[F64, float]:
    """The centroids that err least, as a shape of largest magnitude 1, and its size."""
    centroids = line.centroids(levels)
    if int8_grid:
        grid = on_grid(line, centroids, levels)
        centroids = grid.step * LARGEST * (grid.numbers / LARGEST)
    size = float(np.abs(centroids).max())
    return (centroids / size, size) if size > 0 else (np.ones(1), 0.0)


def search(
    groups: Groups, centroids: F64, start: Tensor, factors: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """The scales with which groups err least in ``scale x centroids``, of either sign.

    Args:
        groups: the weight.
        centroids: [levels], ascending.
        start: f64 [N, J], relative to the sizes of the groups.
        factors: of the start, tried of either sign; each is refined by least squares.

    Returns:
        Relative scales f64 [N, J], and the errors f64 [N, J] relative to the squares of the sizes.
    """
    table = torch.from_numpy(centroids).float()
    nearest = Buckets((table[1:] + table[:-1]) / 2)
    signs = (1.0,) if np.allclose(centroids, -centroids[::-1]) else (1.0, -1.0)
    best, least = torch.empty_like(start), torch.empty_like(start)
    rows = max(1, _CHUNK // groups.values[0].numel())
    for at in range(0, len(start), rows):
        values = groups.values[at : at + rows]
        scale = start[at : at + rows].float()
        weighted = values * groups.h
        chosen, error = scale, torch.full_like(scale, torch.inf)
        for factor in (sign * factor for factor in factors for sign in signs):
            taken = table[nearest(values / (scale * factor)[..., None])]
            along = (weighted * taken).sum(-1)
            square = (taken * taken * groups.h).sum(-1)
            fitted = torch.where(square > 0, along / square, scale * factor)
            fitted = torch.where(fitted != 0, fitted, scale * factor)
            missed = values - fitted[..., None] * taken
            now = (missed * missed * groups.h).sum(-1)
            better = now < error
            chosen, error = torch.where(better, fitted, chosen), torch.where(better, now, error)
        best[at : at + rows], least[at : at + rows] = chosen.double(), error.double()
    return best, least
