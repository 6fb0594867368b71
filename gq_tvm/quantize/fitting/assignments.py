"""Which centroid each weight takes, so that the layer's outputs err least.

Weights ``Q`` err by ``tr((W - Q) H (W - Q)^T)``, H the moments of the inputs. One column after
the other is rounded and its error made good by the columns that follow (GPTQ, arXiv 2210.17323,
here with a codebook); then column by column each weight takes the best centroid with all others
as they are (coordinate descent, as in QuantEase, arXiv 2309.01885).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gq_tvm.quantize.fitting.book import Book
from gq_tvm.quantize.fitting.layer import Layer

_BLOCK = 32  # columns, after which the others learn of the errors in one product


class _Rounder:
    """The nearest of a book's values, column by column; outliers take what is wanted."""

    def __init__(self, layer: Layer, book: Book) -> None:
        table = torch.from_numpy(book.centroids).float()
        self._table, self._bounds = table, (table[1:] + table[:-1]) / 2
        self._group = book.group
        self._scale = book.scale.float().expand(layer.weight.shape[1], -1).t().contiguous()
        self._by = 1 / torch.where(self._scale != 0, self._scale, torch.inf)
        self._apart = layer.apart
        self._held = [] if layer.apart is None else layer.apart.any(1).tolist()

    def __call__(self, k: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The indices and values of column k, [N], nearest to what is wanted."""
        j = k // self._group if self._group else 0
        indices = torch.bucketize(wanted * self._by[j], self._bounds)
        values = self._table[indices].mul_(self._scale[j])
        if self._apart is not None and self._held[k]:
            values = torch.where(self._apart[k], wanted, values)
        return indices, values


def corrected(layer: Layer, book: Book, spread: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Round column by column, the error of each made good by those that follow.

    Args:
        layer: what is rounded.
        book: to what.
        spread: f32 [K, K], the upper Cholesky factor of the inverse of H, both in this order.
        order: i64 [K], the columns in the order they are rounded.

    Returns:
        Indices i64 and values f32 [K, N].
    """
    rounder = _Rounder(layer, book)
    indices = torch.empty(layer.weight.shape, dtype=torch.long)
    values = torch.empty_like(layer.weight)
    left = layer.weight[order]
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


def descended(layer: Layer, book: Book, indices: Tensor, values: Tensor) -> None:
    """Once over the columns: each weight to the best value, the others as they are. In place.

    Args:
        layer: whose outputs err less afterwards.
        book: the values there are.
        indices: i64 [K, N].
        values: f32 [K, N], what the indices stand for.
    """
    rounder, h = _Rounder(layer, book), layer.h
    slope = h @ (values - layer.weight)
    for first in range(0, len(h), _BLOCK):
        last = min(first + _BLOCK, len(h))
        before = values[first:last].clone()
        for k in range(first, last):
            indices[k], now = rounder(k, values[k] - slope[k] / h[k, k])
            slope[k:last].addr_(h[k:last, k], now - values[k])
            values[k] = now
        slope[last:].addmm_(h[last:, first:last], values[first:last] - before)
