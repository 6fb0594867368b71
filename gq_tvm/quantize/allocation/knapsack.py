"""The multiple-choice knapsack: one choice from each group, cheapest in a budget, or smallest.

Dynamic programming over the sizes that can be had (Dudzinski and Walukiewicz 1987, EJOR 28),
of which only those are kept that no smaller one beats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESOLUTION = 1 << 20  # steps of a budget: exact up to a MiB, beyond that one size a step is kept


@dataclass(frozen=True)
class Choice:
    """What a choice takes, in bytes, and what it costs."""

    size: int
    cost: float


def choose(groups: Sequence[Sequence[Choice]], budget: int) -> list[int] | None:
    """The number of the choice in each group; None when no combination fits.

    Of combinations of equal cost the smallest is taken. Of a budget above ``RESOLUTION`` bytes a
    millionth may be left for each group; whatever is returned fits.

    Args:
        groups: each with one choice or more.
        budget: in bytes.
    """
    front = Front.of(groups, budget)
    return None if front is None else front.chosen(len(front.sizes) - 1)


@dataclass(frozen=True)
class Front:
    """The combinations within a budget that no smaller one beats.

    Attributes:
        sizes: in bytes, i64, rising.
        costs: f64, falling.
    """

    sizes: np.ndarray
    costs: np.ndarray
    _steps: list[tuple[np.ndarray, np.ndarray]]

    @staticmethod
    def of(groups: Sequence[Sequence[Choice]], budget: int) -> Front | None:
        """As of ``choose``; None when no combination fits."""
        if budget < 0:
            return None
        return _combined(groups, budget)

    def within(self, cost: float) -> int | None:
        """The number of the smallest combination that costs no more; None when all do."""
        fitting = np.flatnonzero(self.costs <= cost)
        return int(fitting[0]) if len(fitting) else None

    def chosen(self, state: int) -> list[int]:
        """The number of the choice in each group, of the combination of that number."""
        chosen = []
        for before, number in reversed(self._steps):
            chosen.append(int(number[state]))
            state = int(before[state])
        return chosen[::-1]


def _combined(groups: Sequence[Sequence[Choice]], budget: int) -> Front | None:
    unit = max(1, -(-budget // RESOLUTION))
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    for group in groups:
        own = np.array([choice.size for choice in group])
        all_sizes = (sizes[:, None] + own).ravel()
        all_costs = (costs[:, None] + [choice.cost for choice in group]).ravel()
        kept = _front(all_sizes, all_costs, budget, unit)
        if not len(kept):
            return None
        sizes, costs = all_sizes[kept], all_costs[kept]
        before, number = np.divmod(kept, len(group))
        # All steps are kept until the end: as small as they can be.
        steps.append((before.astype(np.int32), number.astype(np.min_scalar_type(len(group) - 1))))
    return Front(sizes, costs, steps)


def _front(sizes: np.ndarray, costs: np.ndarray, budget: int, unit: int) -> np.ndarray:
    """Numbers of the states that fit and that nothing as small beats, by size.

    Of those within a unit the cheapest; and the smallest of all, with which the rest surely fits.
    """
    order = np.lexsort((costs, sizes))
    order = order[sizes[order] <= budget]
    if not len(order):
        return order
    best = np.minimum.accumulate(costs[order])
    order = order[np.r_[True, best[1:] < best[:-1]]]
    step = sizes[order] // unit
    kept = np.r_[step[1:] != step[:-1], True]
    kept[0] = True
    return order[kept]
