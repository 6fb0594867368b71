"""Which centroid each weight takes, so that the layer's outputs err least.

Weights ``Q`` err by ``tr((W - Q) H (W - Q)^T)``, H the moments of the inputs. One column after
the other is rounded and its error made good by the columns that follow (GPTQ, arXiv 2210.17323,
here with a codebook); then column by column each weight takes the best centroid with all others
as they are (coordinate descent, as in QuantEase, arXiv 2309.01885).

Everything is transposed: [K, N], so that a column of the weight lies together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gq_tvm.quantize.fitting.book import Book

_BLOCK = 32


class Rounder:
    """The nearest of a book's values, column by column."""

    def __init__(self, book: Book, rows: int) -> None:
        table = torch.from_numpy(book.centroids).float()
        self._table, self._bounds = table, (table[1:] + table[:-1]) / 2
        self._group = book.group
        self._scale = book.scale.float().expand(rows, -1).t().contiguous()
        self._by = 1 / torch.where(self._scale != 0, self._scale, torch.inf)

    def __call__(self, k: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The indices and values of column k, [N], nearest to what is wanted."""
        j = k // self._group if self._group else 0
        indices = torch.bucketize(wanted * self._by[j], self._bounds)
        return indices, self._table[indices] * self._scale[j]


def corrected(
    weight: Tensor, spread: Tensor, order: Tensor, rounder: Rounder
) -> tuple[Tensor, Tensor]:
    """Round column by column, the error of each made good by those that follow.

    Args:
        weight: f32 [K, N].
        spread: f32 [K, K], the upper Cholesky factor of the inverse of H, both in this order.
        order: i64 [K], the columns in the order they are rounded.
        rounder: rounds.

    Returns:
        Indices i64 and values f32 [K, N].
    """
    indices = torch.empty(weight.shape, dtype=torch.long)
    values = torch.empty_like(weight)
    left = weight[order]
    for first in range(0, len(left), _BLOCK):
        last = min(first + _BLOCK, len(left))
        errors = torch.empty(last - first, left.shape[1])
        for i in range(first, last):
            k = int(order[i])
            indices[k], values[k] = rounder(k, left[i])
            error = torch.div(left[i] - values[k], spread[i, i], out=errors[i - first])
            left[i + 1 : last].addr_(spread[i, i + 1 : last], error, alpha=-1)
        left[last:].addmm_(spread[first:last, last:].t(), errors, alpha=-1)
    return indices, values


def descended(weight: Tensor, h: Tensor, indices: Tensor, values: Tensor, rounder: Rounder) -> None:
    """Once over the columns: each weight to the best value, the others as they are. In place.

    Args:
        weight: f32 [K, N].
        h: f32 [K, K].
        indices: i64 [K, N].
        values: f32 [K, N], what the indices stand for.
        rounder: rounds.
    """
    slope = h @ (values - weight)
    for first in range(0, len(weight), _BLOCK):
        last = min(first + _BLOCK, len(weight))
        before = values[first:last].clone()
        for k in range(first, last):
            indices[k], now = rounder(k, values[k] - slope[k] / h[k, k])
            slope[first:last].addr_(h[first:last, k], now - values[k])
            values[k] = now
        if last < len(weight) or first:
            inside = slope[first:last].clone()
            slope.addmm_(h[:, first:last], values[first:last] - before)
            slope[first:last] = inside


def error(weight: Tensor, h: Tensor, values: Tensor) -> Tensor:
    """What each row errs, f64 [N]."""
    missed = values - weight
    return ((h @ missed) * missed).sum(0, dtype=torch.float64)
