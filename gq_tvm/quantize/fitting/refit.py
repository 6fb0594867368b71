"""Scales and centroids of least error once every weight has its centroid [C].

``tr((W - Q) H (W - Q)^T)`` is quadratic in a row's scales, and in the centroids: both are solved
for. Tensors are turned as in ``layer``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.quantize.fitting.book import Book
from gq_tvm.quantize.fitting.layer import Layer
from gq_tvm.quantize.quantisers.int8_grid import LARGEST
from gq_tvm.quantize.quantisers.lloyd_max import F64

#: Makes a better book for indices i64 [K, N] and what stands there, f32 [K, N].
Refit = Callable[[Layer, Book, Tensor, Tensor], Book]

_RIDGE = 1e-6  # of the mean diagonal: keeps what the inputs leave open where it was
_SOME = 2**25  # multiplications for each centroid; rows are left out beyond
_FEWEST = 16  # rows
_ROUNDS = 4


def scales(layer: Layer, book: Book, indices: Tensor, values: Tensor) -> Book:
    """The scales of rows or groups that err least."""
    width, rows = values.shape
    group = book.group or width
    count = -(-width // group)

    def by_group(inputs: Tensor) -> Tensor:
        """Sums over the inputs, [count * group or fewer, N], of each group."""
        fill = -len(inputs) % group
        return F.pad(inputs, (0, 0, 0, fill)).view(-1, group, rows).sum(1)

    taken = layer.coded(torch.from_numpy(book.centroids).float()[indices])
    gram = torch.empty(count, count, rows)
    for j in range(count):
        first = j * group
        part = slice(first, first + group)
        along = (layer.h[first:, part] @ taken[part]).mul_(taken[first:])
        gram[j:, j] = gram[j, j:] = by_group(along)
    slope = by_group((layer.h @ (layer.weight - values)).mul_(taken))
    gram = gram.permute(2, 0, 1).double()
    diagonal = gram.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * diagonal.mean(1, keepdim=True)
    diagonal += torch.where(ridge > 0, ridge, 1.0)
    step = torch.linalg.solve(gram, slope.t().double())
    return Book(book.centroids, book.scale + step, book.group)


def centroids(layer: Layer, book: Book, indices: Tensor, values: Tensor) -> Book:
    """The centroids that err least, their largest magnitude again 1."""
    best, size, _ = _centroids(layer, book, indices, values)
    return Book(best, book.scale * size, book.group)


def grid_centroids(layer: Layer, book: Book, indices: Tensor, values: Tensor) -> Book:
    """The centroids that err least on an int8 grid: one after the other, given the others."""
    best, size, gram = _centroids(layer, book, indices, values)
    wanted = best * LARGEST
    numbers = np.rint(wanted)
    for _ in range(_ROUNDS):
        before = numbers.copy()
        for level in np.flatnonzero(np.abs(best) < 1):
            missed = numbers - wanted
            missed[level] = 0
            number = np.rint(wanted[level] - gram[level] @ missed / gram[level, level])
            numbers[level] = np.clip(number, -LARGEST, LARGEST)
        if np.array_equal(numbers, before):
            break
    return Book(np.sort(numbers) / LARGEST, book.scale * size, book.group)


def _centroids(layer: Layer, book: Book, indices: Tensor, values: Tensor) -> tuple[F64, float, F64]:
    """The best centroids, ascending, of largest magnitude 1; their size, and the curvature."""
    width, rows = values.shape
    wanted = layer.weight - values
    factor = layer.coded(book.by_input(width).t().expand(width, rows))
    counts, some = layer.counts.float(), max(_FEWEST, _SOME // width**2)
    if some < rows:
        at = torch.from_numpy(np.sort(np.random.default_rng(0).choice(rows, some, replace=False)))
        wanted, factor, indices, counts = wanted[:, at], factor[:, at], indices[:, at], counts[at]
    levels, flat, weighted = len(book.centroids), indices.reshape(-1), factor * counts

    def sums(values: Tensor) -> F64:
        return torch.bincount(flat, (values * weighted).reshape(-1), levels).double().numpy()

    slope = sums(layer.h @ wanted)
    gram = np.stack([sums(layer.h @ (factor * (indices == level))) for level in range(levels)])
    gram = (gram + gram.T) / 2
    ridge = _RIDGE * gram.diagonal().mean()
    gram += np.eye(levels) * (ridge if ridge > 0 else 1)
    best = np.sort(book.centroids + np.linalg.solve(gram, slope))
    size = float(np.abs(best).max())
    return (best / size, size, gram) if size > 0 else (book.centroids, 1.0, gram)
