"""The codebook that errs least in what a layer gives, for one weight, without training [C].

Centroids and scales come first (``alternating``), and what is kept apart (``outliers``); then the
assignments, column by column, for which scales and centroids are solved again (``by_columns``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gq_tvm.ops.rounding import SMALLEST_LIVE
from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.fitting import outliers
from gq_tvm.quantize.fitting.alternating import alternate, shape
from gq_tvm.quantize.fitting.book import Book
from gq_tvm.quantize.fitting.by_columns import by_columns
from gq_tvm.quantize.fitting.form import Fit, Form
from gq_tvm.quantize.fitting.groups import Groups
from gq_tvm.quantize.fitting.metric import Metric
from gq_tvm.quantize.quantisers.int8_grid import LARGEST
from gq_tvm.quantize.quantisers.lloyd_max import F64, Line

_PAYING = 0.5  # of the error is left by outliers that nobody asked for
_SOME = 2**14  # weights that tell whether there are few values


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
    metric = Metric.of(moments, rows, weight.shape)
    size = _power_of_two(weight)
    scaled = weight / size
    found = _found(scaled, metric, form)
    tensors = found.book.tensors(found.indices, form.levels, size)
    if found.apart is not None:
        positions = found.apart.flatten().nonzero()[:, 0].int()
        wanted = (found.values * size).flatten()[positions.long()]
        tensors = tensors.coming_to(positions, wanted)
    norm, missed = metric.power(scaled), metric.power((expand(tensors) - weight) / size)
    # Memory of their own: parts of larger tensors are saved with all of these.
    own = WeightTensors._make(one if one is None else one.contiguous().clone() for one in tensors)
    return Fit(own, float(np.sqrt(missed / norm)) if norm > 0 else 0.0)


class _Found(NamedTuple):
    """Indices [N, K] into a book; values f32 [N, K] where something is apart, bool [N, K]."""

    book: Book
    indices: Tensor
    apart: Tensor | None
    values: Tensor


def _found(weight: Tensor, metric: Metric, form: Form) -> _Found:
    group = 0 if isinstance(form.scales, str) else min(form.scales, weight.shape[1])
    apart = None
    if form.scales == "tensor" or _are_few(weight, form.levels):
        book = _one_codebook(weight, metric, form)
        indices = book.nearest(weight)
        if torch.allclose(book.values(indices.t()).t(), weight, rtol=1e-6, atol=0):
            return _Found(_spread(book, group, form, weight.shape), indices, None, weight)
    if form.scales == "tensor":
        most = int(form.most_outliers * weight.numel())
        if most:
            apart = outliers.of_tensor(weight, metric, form.levels, most)
            book = _one_codebook(weight, metric, form, apart)
    else:
        book, apart = _by_groups(weight, metric, form, group)
    apart = apart if apart is not None and apart.any() else None
    if metric.moments is None:
        return _Found(book, book.nearest(weight), apart, weight)
    book, indices, values = by_columns(weight, metric, form, book, apart)
    return _Found(book, indices, apart, values)


def _by_groups(
    weight: Tensor, metric: Metric, form: Form, group: int
) -> tuple[Book, Tensor | None]:
    """A codebook with scales of rows or groups, and the outliers."""
    groups = Groups.of(weight, metric, group)
    step = max(1, weight.numel() // _SOME)
    one, _ = shape(Line(weight.reshape(-1)[::step].numpy()), form.levels, form.int8_grid)
    centroids = alternate(groups, form, [one, _even(form)])
    scales, apart = groups.scales(centroids), None
    most = int(form.most_outliers * weight.numel())
    if most:
        apart = outliers.of_groups(groups, scales, centroids, most, weight.shape[1])
        if apart.any():
            others = Groups.of(weight, metric, group, apart)
            book = alternate(others, form, [centroids])
            found = others.scales(book)
            bar = 1.0 if form.outliers is not None else _PAYING
            if others.error(found) <= bar * groups.error(scales):
                groups, centroids, scales = others, book, found
            else:
                apart = None
    scale = scales.relative * groups.size
    return Book(centroids, scale.view(len(weight), -1), group).as_stored(), apart


def _even(form: Form) -> F64:
    """Evenly spaced centroids, as plain rounding has them."""
    most = max(form.levels // 2 - 1, 1)
    even = np.arange(-most, most + 1 if form.bits > 1 else most + 2, 1 + (form.bits == 1)) / most
    return np.rint(even * LARGEST) / LARGEST if form.int8_grid else even


def _are_few(weight: Tensor, levels: int) -> bool:
    """Whether each value may be a centroid."""
    flat = weight.reshape(-1)
    step = max(1, len(flat) // _SOME)
    return len(flat[::step].unique()) <= levels and len(flat.unique()) <= levels


def _one_codebook(weight: Tensor, metric: Metric, form: Form, apart: Tensor | None = None) -> Book:
    """One scale for all, at the least error of columns on their own."""
    weights = metric.counts[:, None] * metric.h
    chosen = torch.ones_like(weight, dtype=torch.bool) if apart is None else ~apart
    alike = bool((weights == weights[0, 0]).all())
    line = Line(weight[chosen].numpy(), None if alike else weights[chosen].numpy())
    centroids, size = shape(line, form.levels, form.int8_grid)
    return Book(centroids, torch.tensor([[size]], dtype=torch.float64), 0).as_stored()


def _spread(book: Book, group: int, form: Form, size: torch.Size) -> Book:
    """The book with a scale for each row or group, all alike."""
    if form.scales == "tensor":
        return book
    columns = -(-size[1] // group) if group else 1
    return Book(book.centroids, book.scale.expand(size[0], columns).clone(), group)


def _power_of_two(weight: Tensor) -> float:
    """What brings the largest magnitude to 1 to 2."""
    largest = float(weight.abs().amax()) if weight.numel() else 0.0
    return float(2.0 ** (np.frexp(largest)[1] - 1)) if largest >= float(SMALLEST_LIVE) else 1.0
