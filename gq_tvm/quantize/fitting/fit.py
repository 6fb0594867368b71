"""The codebook that errs least in what a layer gives, for one weight, without training [C].

Centroids and scales come first (``alternating``), then the assignments, column by column
(``assignments``); scales and centroids are solved for once more (``refit``), and so on by turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.ops.rounding import SMALLEST_LIVE
from gq_tvm.ops.torch_weight import expand
from gq_tvm.quantize.fitting import assignments, refit
from gq_tvm.quantize.fitting.alternating import Groups, alternate, shape
from gq_tvm.quantize.fitting.assignments import Rounder
from gq_tvm.quantize.fitting.book import Book
from gq_tvm.quantize.fitting.form import Fit, Form
from gq_tvm.quantize.quantisers.lloyd_max import Line

_DAMPING = 0.01  # of the mean second moment, added to each
_ROUNDS, _TURNS = 3, 2
_EXACT = 1e-13  # of the squared norm
_MOST_REFITTED = 65  # centroids; more lie close enough


def fit(
    weight: Tensor, form: Form, moments: Tensor | None = None, rows: Tensor | None = None
) -> Fit:
    """Put a weight into the codebook of least error.

    Args:
        weight: f32 [N, K], finite.
        form: how it is stored.
        moments: f32 or f64 [K, K], the sum of ``x x^T`` over the inputs x that the layer meets,
            times anything above 0; None: all inputs alike and independent.
        rows: f32 [N], how much the error of each row counts; None: all alike.

    Returns:
        The weight, the same each time, and what it loses.

    Raises:
        Error: shapes do not fit, or moments or rows hold NaN, infinity or negative numbers.
    """
    weight = weight.detach().cpu().float()
    inputs = _Inputs.of(moments, weight.shape[1])
    counts = _counts(rows, len(weight))
    size = _power_of_two(weight)
    scaled = weight / size
    book = _one_codebook(scaled, inputs.h, counts, form)
    indices = _nearest(scaled, book)
    if _lost(scaled, book.values(indices.t()).t(), inputs, counts) ** 2 > _EXACT:
        book, indices = _fitted(scaled, inputs, counts, form, book)
    elif form.scales != "tensor":
        book = _spread(book, form, weight.shape)
    tensors = book.tensors(indices, form.levels, size)
    return Fit(tensors, _lost(weight, expand(tensors), inputs, counts))


@dataclass(frozen=True)
class _Inputs:
    """What is known of a layer's inputs.

    Attributes:
        moments: f64 [K, K], their mean diagonal 1, damped; None: nothing.
        h: f64 [K], what the error of each column counts once others make good for it.
    """

    moments: Tensor | None
    h: Tensor

    @staticmethod
    def of(moments: Tensor | None, width: int) -> _Inputs:
        """Raises: Error: they are no moments of so many inputs."""
        ones = torch.ones(width, dtype=torch.float64)
        if moments is None:
            return _Inputs(None, ones)
        if moments.shape != (width, width):
            got = ", ".join(map(str, moments.shape))
            raise Error(f"fit: moments must have shape [{width}, {width}], got [{got}].")
        moments = moments.detach().cpu().double()
        if not torch.isfinite(moments).all() or (moments.diagonal() < 0).any():
            raise Error("fit: moments hold NaN or infinity, or a negative square.")
        mean = moments.diagonal().mean()
        if mean == 0:
            return _Inputs(None, ones)
        moments = (moments + moments.T) / (2 * mean) + _DAMPING * torch.diag(ones)
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
        except torch.linalg.LinAlgError:
            raise Error("fit: moments are no sum of squares.") from None
        return _Inputs(moments, 1 / inverse.diagonal())


def _counts(rows: Tensor | None, count: int) -> Tensor:
    if rows is None:
        return torch.ones(count, dtype=torch.float64)
    if rows.shape != (count,):
        got = ", ".join(map(str, rows.shape))
        raise Error(f"fit: rows must have shape [{count}], got [{got}].")
    rows = rows.detach().cpu().double()
    if not torch.isfinite(rows).all() or (rows < 0).any():
        raise Error("fit: rows hold NaN, infinity or a negative number.")
    mean = rows.mean()
    # A row that was never met is not given up.
    return rows / mean + _DAMPING if mean > 0 else torch.ones_like(rows)


def _power_of_two(weight: Tensor) -> float:
    largest = float(weight.abs().amax()) if weight.numel() else 0.0
    return float(2.0 ** (np.frexp(largest)[1] - 1)) if largest >= float(SMALLEST_LIVE) else 1.0


def _one_codebook(weight: Tensor, h: Tensor, counts: Tensor, form: Form) -> Book:
    """One scale for all, at the least error of columns on their own."""
    weights = (counts[:, None] * h).reshape(-1)
    alike = bool((weights == weights[0]).all())
    line = Line(weight.reshape(-1).numpy(), None if alike else weights.numpy())
    centroids, size = shape(line, form.levels, form.int8_grid)
    return Book(centroids, torch.tensor([[size]], dtype=torch.float64), 0).as_stored()


def _spread(book: Book, form: Form, size: torch.Size) -> Book:
    """The book with a scale for each row or group, all alike."""
    group = 0 if isinstance(form.scales, str) else form.scales
    columns = -(-size[1] // group) if group else 1
    return Book(book.centroids, book.scale.expand(size[0], columns).clone(), group)


def _nearest(weight: Tensor, book: Book) -> Tensor:
    """Indices i64 [N, K] of the nearest values."""
    rounder = Rounder(book, len(weight))
    columns = weight.t().contiguous()
    return torch.stack([rounder(k, column)[0] for k, column in enumerate(columns)], 1)


def _fitted(
    weight: Tensor, inputs: _Inputs, counts: Tensor, form: Form, book: Book
) -> tuple[Book, Tensor]:
    if form.scales != "tensor":
        group = 0 if isinstance(form.scales, str) else min(form.scales, weight.shape[1])
        groups = Groups(weight, inputs.h, counts, group)
        book = alternate(groups, group, form.levels, form.int8_grid, book).as_stored()
    if inputs.moments is None:
        return book, _nearest(weight, book)
    return _by_columns(weight, inputs.moments, counts, form, book)


def _by_columns(
    weight: Tensor, moments: Tensor, counts: Tensor, form: Form, book: Book
) -> tuple[Book, Tensor]:
    """Assignments with regard to one another, and what is best for them, by turns."""
    columns, h = weight.t().contiguous(), moments.float()
    order = moments.diagonal().argsort(descending=True, stable=True)
    ordered = torch.linalg.cholesky(moments[order][:, order])
    spread = torch.linalg.cholesky(torch.cholesky_inverse(ordered), upper=True).float()
    indices = _nearest(weight, book).t().contiguous()

    def error(book: Book, indices: Tensor) -> Tensor:
        return assignments.error(columns, h, book.values(indices)) * counts

    for _ in range(_ROUNDS):
        found, _ = assignments.corrected(columns, spread, order, Rounder(book, len(weight)))
        better = error(book, found) < error(book, indices)
        indices = torch.where(better, found, indices)
        for _ in range(_TURNS):
            rounder = Rounder(book, len(weight))
            assignments.descended(columns, h, indices, book.values(indices), rounder)
            for other in _refitted(columns, h, indices, counts, form, book):
                if error(other, indices).sum() < error(book, indices).sum():
                    book = other
    return book, indices.t()


def _refitted(
    columns: Tensor, h: Tensor, indices: Tensor, counts: Tensor, form: Form, book: Book
) -> Iterator[Book]:
    """What may be better books for the same indices."""
    if form.scales != "tensor":
        book = refit.scales(columns, h, indices, book).as_stored()
        yield book
    if len(book.centroids) < _MOST_REFITTED:
        yield refit.centroids(columns, h, indices, counts, book, form.int8_grid).as_stored()


def _lost(weight: Tensor, deployed: Tensor, inputs: _Inputs, counts: Tensor) -> float:
    missed, weight = deployed.double() - weight, weight.double()

    def power(rows: Tensor) -> float:
        along = rows
        if inputs.moments is not None:
            along = rows @ inputs.moments - _DAMPING * rows
        return float(((along * rows).sum(1) * counts).sum())

    norm = power(weight)
    return float(np.sqrt(max(power(missed), 0) / norm)) if norm > 0 else 0.0
