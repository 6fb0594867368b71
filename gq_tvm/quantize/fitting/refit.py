"""Scales and centroids of least error once every weight has its centroid.

``tr((W - Q) H (W - Q)^T)`` is quadratic in a row's scales, and in the centroids: both are solved
for. Transposed as in ``assignments``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gq_tvm.quantize.fitting.book import Book
from gq_tvm.quantize.quantisers.int8_grid import LARGEST
from gq_tvm.quantize.quantisers.lloyd_max import F64

_RIDGE = 1e-6  # of the mean diagonal: keeps what the inputs leave open where it was
_SOME = 2**26  # multiplications for each centroid; rows are left out beyond
_ROUNDS = 4


def scales(weight: Tensor, h: Tensor, indices: Tensor, book: Book) -> Book:
    """The book with the scales of rows or groups that err least.

    Args:
        weight: f32 [K, N].
        h: f32 [K, K].
        indices: i64 [K, N].
        book: not of one scale for the tensor.
    """
    width, rows = weight.shape
    group = book.group or width
    taken = torch.from_numpy(book.centroids).float()[indices]
    parts = [slice(at, min(at + group, width)) for at in range(0, width, group)]
    wanted = h @ weight
    old = book.scale.float().t()  # [J, N]
    gram = torch.empty(rows, len(parts), len(parts), dtype=torch.float64)
    slope = torch.empty(rows, len(parts), dtype=torch.float64)
    for j, part in enumerate(parts):
        along = h[:, part] @ taken[part]
        wanted -= along * old[j]
        along *= taken
        for i, other in enumerate(parts):
            gram[:, i, j] = along[other].sum(0)
    for j, part in enumerate(parts):
        slope[:, j] = (taken[part] * wanted[part]).sum(0)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    ridge = _RIDGE * diagonal.mean(1, keepdim=True)
    diagonal += torch.where(ridge > 0, ridge, 1.0)
    gram = (gram + gram.mT) / 2
    step = torch.cholesky_solve(slope[..., None], torch.linalg.cholesky(gram))[..., 0]
    return Book(book.centroids, book.scale + step, book.group)


def centroids(
    weight: Tensor, h: Tensor, indices: Tensor, counts: Tensor, book: Book, int8_grid: bool
) -> Book:
    """The book with the centroids that err least, their largest magnitude again 1.

    Args:
        weight: f32 [K, N].
        h: f32 [K, K].
        indices: i64 [K, N].
        counts: f64 [N], what the error of each row counts.
        book: the scales.
        int8_grid: whether centroids are whole numbers of 127ths.
    """
    width, rows = weight.shape
    scale = book.by_input(width).t()
    some = max(1, _SOME // width**2)
    if some < rows:
        at = torch.from_numpy(np.sort(np.random.default_rng(0).choice(rows, some, replace=False)))
        weight, indices, counts = weight[:, at], indices[:, at], counts[at]
        scale = scale if scale.shape[1] == 1 else scale[:, at]
    levels, flat = len(book.centroids), indices.reshape(-1)
    factor = scale * counts.float()

    def sums(values: Tensor) -> F64:
        return torch.bincount(flat, (values * factor).reshape(-1).double(), levels).numpy()

    taken = torch.from_numpy(book.centroids).float()[indices] * scale
    slope = sums(h @ (weight - taken))
    gram = np.stack([sums(h @ (scale * (indices == level))) for level in range(levels)])
    gram = (gram + gram.T) / 2
    ridge = _RIDGE * gram.diagonal().mean()
    gram += np.eye(levels) * (ridge if ridge > 0 else 1)
    found = np.sort(book.centroids + np.linalg.solve(gram, slope))
    size = float(np.abs(found).max())
    if size == 0:
        return book
    found = found / size
    if int8_grid:
        found = _on_grid(found, gram) / LARGEST
    return Book(found, book.scale * size, book.group)


def _on_grid(best: F64, gram: F64) -> F64:
    """Whole numbers near 127 times the best centroids: one after the other, given the others."""
    wanted = best * LARGEST
    numbers = np.rint(wanted)
    for _ in range(_ROUNDS):
        before = numbers.copy()
        for level in np.flatnonzero(np.abs(best) < 1):
            others = gram[level] @ (numbers - wanted) - gram[level, level] * (
                numbers[level] - wanted[level]
            )
            number = np.rint(wanted[level] - others / gram[level, level])
            numbers[level] = np.clip(number, -LARGEST, LARGEST)
        if np.array_equal(numbers, before):
            break
    return np.sort(numbers)
