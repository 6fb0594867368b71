"""Assignments with regard to one another, and the scales and centroids for them, by turns [C]."""

from __future__ import annotations

import torch
from torch import Tensor

from gq_tvm.quantize.fitting import assignments, refit
from gq_tvm.quantize.fitting.book import Book
from gq_tvm.quantize.fitting.form import Form
from gq_tvm.quantize.fitting.layer import Layer
from gq_tvm.quantize.fitting.metric import Metric

_ROUNDS, _TURNS = 2, 2
_MOST_REFITTED = 64  # centroids; more lie close enough


def by_columns(
    weight: Tensor, metric: Metric, form: Form, book: Book, apart: Tensor | None
) -> tuple[Book, Tensor, Tensor]:
    """The assignments that err least together, and the book for them.

    Args:
        weight: f32 [N, K].
        metric: with moments.
        form: what the book is.
        book: to begin with.
        apart: bool [N, K], weights that may take any value; None: none.

    Returns:
        The book, indices i64 [N, K], and values f32 [N, K], those of the indices but for what is
        apart.
    """
    assert metric.moments is not None
    columns = weight.t().contiguous()
    free = None if apart is None else apart.t().contiguous()
    layer = Layer(columns, metric.moments.float(), metric.counts, free)
    order = metric.moments.diagonal().argsort(descending=True, stable=True)
    spread = _spread(metric.moments[order][:, order])
    indices = book.nearest(weight).t().contiguous()
    values = layer.values(book, indices, columns)
    least = layer.errors(values)
    for _ in range(_ROUNDS):
        found = assignments.corrected(layer, book, spread, order)
        better = layer.errors(found[1]) < least
        indices, values = (
            torch.where(better, found[0], indices),
            torch.where(better, found[1], values),
        )
        for _ in range(_TURNS):
            assignments.descended(layer, book, indices, values)
            book, values, least = _refitted(layer, form, book, indices, values)
    return book, indices.t(), values.t()


def _refitted(
    layer: Layer, form: Form, book: Book, indices: Tensor, values: Tensor
) -> tuple[Book, Tensor, Tensor]:
    """The better of the book and those refitted, its values, and what each output errs."""
    refits: list[refit.Refit] = [refit.scales] * (form.scales != "tensor")
    if form.levels <= _MOST_REFITTED:
        refits.append(refit.grid_centroids if form.int8_grid else refit.centroids)
    books = [(book, values)]
    for once_more in refits:
        book = once_more(layer, book, indices, books[-1][1]).as_stored()
        books.append((book, layer.values(book, indices, values)))
    least = layer.errors(values)
    for book, now in books[:0:-1]:  # the last is as good as always the best
        errors = layer.errors(now)
        if errors.sum() < least.sum():
            return book, now, errors
    return *books[0], least


def _spread(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse, f32."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    return torch.linalg.cholesky(inverse, upper=True).float()
