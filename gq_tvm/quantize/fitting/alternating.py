"""Centroids and scales found by turns, each the best for the other [C].

With the scales given, centroids are a weighted k-means of one dimension; with the centroids given,
each scale is the best of many tried, refined by least squares.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gq_tvm.quantize.fitting.form import Form
from gq_tvm.quantize.fitting.groups import Groups, Scales
from gq_tvm.quantize.quantisers.int8_grid import on_grid
from gq_tvm.quantize.quantisers.lloyd_max import F64, Line

_TURNS = 3
_SOME = 2**16  # weights that the centroids are found from


def alternate(groups: Groups, form: Form, start: list[F64]) -> F64:
    """The centroids of least error, f64 of largest magnitude 1, where each group has a scale.

    Args:
        groups: what they are for.
        form: how many, and whether on an int8 grid.
        start: centroids that may be better.
    """
    some = groups.some(_SOME)
    most, least = some.values.amax(1), some.values.amin(1)
    signed = torch.where(most >= -least, 1.0, -1.0).double()
    found: list[tuple[float, F64]] = []

    def keep(scales: Scales, centroids: F64) -> None:
        found.append((some.error(scales), centroids))

    for relative in (torch.ones_like(signed), signed):
        for turn in range(_TURNS):
            centroids = _centroids(some, relative, form)
            scales = some.better(centroids, relative) if turn else some.scales(centroids)
            relative = scales.relative
        keep(scales, centroids)
    for centroids in start:
        keep(some.scales(centroids), centroids)
    return min(found, key=lambda one: one[0])[1]


def _centroids(groups: Groups, relative: Tensor, form: Form) -> F64:
    worth = relative**2 * groups.worth
    weights = groups.h * (worth / worth.max())[:, None]
    live = weights > 0
    if not live.any():
        return np.ones(1)
    values = groups.values.double() / relative[:, None]
    line = Line(values[live].numpy(), weights[live].double().numpy())
    return shape(line, form.levels, form.int8_grid)[0]


def shape(line: Line, levels: int, int8_grid: bool) -> tuple[F64, float]:
    """The centroids that err least, as a shape of largest magnitude 1, and its size."""
    centroids = line.centroids(levels)
    if int8_grid:
        grid = on_grid(line, centroids, levels)
        centroids = grid.step * grid.numbers
    size = float(np.abs(centroids).max())
    return (centroids / size, size) if size > 0 else (np.ones(1), 0.0)
