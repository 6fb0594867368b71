"""The scale of each row for a codebook shape that all rows share, of least squared error [C]."""

from __future__ import annotations

import numpy as np
import torch

from gq_tvm.quantize.quantisers.bucketize import Buckets
from gq_tvm.quantize.quantisers.lloyd_max import F64

# Of a long row, its outermost weights at either end and so many between stand for all.
_OUTERMOST, _BETWEEN, _ENOUGH = 16, 96, 2**18
# Tried from the row's largest weight down.
_FACTORS = 2.0 ** (-np.arange(24) / 2)
_FITS = 2


def some_columns(rows: F64) -> tuple[F64, F64]:
    """Weights that stand for whole rows [N, K]: some of each [N, M], and each one's count [M]."""
    ordered = np.sort(rows, axis=1)
    inner = rows.shape[1] - 2 * _OUTERMOST
    some = max(_BETWEEN, _ENOUGH // len(rows))
    if inner <= some:
        return ordered, np.ones(rows.shape[1])
    between = _OUTERMOST + (np.arange(some) + 0.5) * inner / some
    at = np.concatenate([np.arange(_OUTERMOST), between.astype(int), np.arange(-_OUTERMOST, 0)])
    count = np.ones(len(at))
    count[_OUTERMOST:-_OUTERMOST] = inner / some
    return ordered[:, at], count


def best_scales(rows: F64, count: F64, shape: F64, start: F64) -> F64:
    """The scale above 0 with which each row errs least in ``scale x shape``.

    Args:
        rows: [N, M], each of largest magnitude 1.
        count: how many weights each column stands for, [M].
        shape: [levels], ascending, of largest magnitude 1.
        start: scales to begin with, [N]; what is found does not err more.

    Returns:
        f64 [N].
    """
    nearest = Buckets(torch.from_numpy((shape[1:] + shape[:-1]) / 2))
    best, least = start.copy(), np.full(len(rows), np.inf)

    def values(scale: F64) -> F64:
        return shape[nearest(torch.from_numpy(some / scale[:, None])).numpy()]

    def keep_if_better(scale: F64) -> None:
        error = np.einsum("nm,m->n", (some - scale[:, None] * values(scale)) ** 2, count)
        better = error < least[at]
        best[at[better]], least[at[better]] = scale[better], error[better]

    at, some = np.arange(len(rows)), rows
    keep_if_better(start)
    for factor in _FACTORS:
        beyond = np.einsum("nm,m->n", np.maximum(np.abs(some) - factor, 0) ** 2, count)
        going_on = beyond < least[at]  # else no smaller scale can be better
        at, some = at[going_on], some[going_on]
        if not len(at):
            break
        keep_if_better(np.full(len(at), factor))
    at, some = np.arange(len(rows)), rows
    for _ in range(_FITS):
        taken = values(best)
        along = np.einsum("nm,nm,m->n", some, taken, count)
        square = np.einsum("nm,nm,m->n", taken, taken, count)
        keep_if_better(np.where(along > 0, along / np.where(square > 0, square, 1), best))
    return best
