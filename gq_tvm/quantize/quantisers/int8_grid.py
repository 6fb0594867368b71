"""Centroids on an int8 grid, with the step of least squared error [C].

Deployment takes the step from the largest centroid, which is 127 steps. That need not be as large
as the largest weight: finer steps that leave an outlier beyond the grid may err less in all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gq_tvm.quantize.quantisers.lloyd_max import F64, Line

#: The largest step number, and all of them.
LARGEST = 127
EVERY_STEP = np.arange(-LARGEST, LARGEST + 1, dtype=np.float64)

_ITERATIONS = 20
_GOOD_ENOUGH = 1.01  # of the error without a grid
_NOTHING = 1e-12  # of the sum of squares
_COARSE = 2.0 ** (-np.arange(1, 60) / 2)
_FINER = (2**0.25, 2**0.125, 2**0.0625)


class OnGrid(NamedTuple):
    """Centroids ``step x numbers``: whole numbers, ascending, the largest magnitude 127."""

    error: float
    step: float
    numbers: F64

    @staticmethod
    def best(*grids: OnGrid) -> OnGrid:
        """The one that errs least; of equals the first."""
        return min(grids, key=lambda grid: grid.error)


def on_grid(line: Line, centroids: F64, levels: int) -> OnGrid:
    """The centroids on an int8 grid that err least.

    Args:
        line: the values.
        centroids: what ``line.centroids(levels)`` gave.
        levels: 2 to 256; from 255 on, each step is a centroid.

    Returns:
        At most ``levels`` centroids, and the sum of weighted squared errors.
    """
    largest = float(np.abs(centroids).max())
    if largest == 0:
        return OnGrid(0.0, 0.0, np.array([float(LARGEST)]))
    if len(centroids) < levels:
        return _with_one_to_spare(line, centroids, largest)

    def reaching(value: float) -> OnGrid:
        every = levels >= len(EVERY_STEP)
        step = value / LARGEST
        numbers = EVERY_STEP if every else _settle(line, centroids, levels, step)
        return _fit_step(line, step, numbers)

    best = reaching(largest)
    if best.error <= _GOOD_ENOUGH * line.error(centroids):
        return best
    for value in largest * _COARSE:
        if line.error_beyond(value) >= best.error:
            break  # smaller ones err more yet
        best = OnGrid.best(best, reaching(value))
    for factor in _FINER:
        value = best.step * LARGEST
        best = OnGrid.best(best, reaching(value * factor), reaching(value / factor))
    return best


def _with_one_to_spare(line: Line, centroids: F64, largest: float) -> OnGrid:
    """With a level that stands at 127 steps, so the largest value may be any number of them."""
    fewest = min(int(LARGEST * largest / float(np.finfo(np.float32).max)) + 1, LARGEST)
    nothing = _NOTHING * line.error(np.zeros(1))
    best = OnGrid(np.inf, 0.0, centroids)
    for number in range(LARGEST, fewest - 1, -1):
        step = largest / number
        best = OnGrid.best(best, _fit_step(line, step, _numbers(centroids, step)))
        if best.error <= nothing:
            break
    if np.abs(best.numbers).max() == LARGEST:
        return best
    return best._replace(numbers=np.append(best.numbers, LARGEST))


def _numbers(centroids: F64, step: float) -> F64:
    return np.unique(np.clip(np.rint(centroids / step), -LARGEST, LARGEST))


def _settle(line: Line, centroids: F64, levels: int, step: float) -> F64:
    """Lloyd's iteration on the grid: each cell's mean rounded, the outermost at 127 steps."""
    numbers = _numbers(centroids, step)
    for _ in range(_ITERATIONS):
        before, means = numbers, line.means(line.edges(step * numbers))
        numbers = _numbers(line.refill(means, levels) if len(means) < levels else means, step)
        outermost = np.abs(numbers).argmax()
        numbers[outermost] = np.copysign(LARGEST, numbers[outermost])
        if np.array_equal(numbers, before):
            break
    return numbers


def _fit_step(line: Line, step: float, numbers: F64) -> OnGrid:
    """The step that errs least where values keep the centroids they have."""
    weight, first, _ = line.moments(line.edges(step * numbers))
    square = float((numbers * numbers * weight).sum())
    fitted = float((numbers * first).sum()) / square if square > 0 else step
    return OnGrid.best(*(OnGrid(line.error(s * numbers), s, numbers) for s in (step, fitted)))
