"""What the cost model sees of a kernel: its schedule, its product, its counted vector code."""

from __future__ import annotations

from functools import lru_cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from gq_tvm.schedules import FAMILIES, Schedule, family
from gq_tvm.schedules.choosing.cost import kernel_counts
from gq_tvm.tuning.task import Task

_NAMES = [one.name for one in FAMILIES]


def features(task: Task, schedule: Schedule) -> NDArray[np.float64]:
    """The features of a candidate, f64 [1, d].

    Knobs and sizes are logarithms; counts are for each weight and row, so that what is learnt on
    one shape says something about others.
    """
    product, counts = task.product, np.array(_counts(task, schedule))
    rows = max(1, product.usual_rows)
    counts[:8] /= product.n * product.k * rows  # the last two are of the loop, not of the call
    sizes = (product.n, product.k, rows, task.threads)
    known = [product.bits, product.rows is None, *(task.family == name for name in _NAMES)]
    own = family(task.family).features(task.choice(schedule))
    return np.array([[*own, *map(_log, sizes), *map(float, known), *counts]], np.float64)


@lru_cache(maxsize=20_000)
def _counts(task: Task, schedule: Schedule) -> list[float]:
    return kernel_counts(task.run(schedule)).values


def _log(value: float) -> float:
    return log2(1 + value)
