"""Which weights are kept apart at 16 bits: those whose bits are better spent so [C].

A bit more for every weight divides the error D of N K weights by 4, so bits spread over all of
them lower it by ``D ln 4 / (N K)`` each. An outlier takes 40 (value, column, row within a tile),
and pays where the error of its group sinks by more than 40 of these once it is gone and the
group has a scale without it. As SqueezeLLM (arXiv 2306.07629) and SpQR (arXiv 2306.03078) do, at
most a small share of the weights is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gq_tvm.quantize.fitting.groups import Groups, Scales
from gq_tvm.quantize.fitting.metric import Metric
from gq_tvm.quantize.quantisers.lloyd_max import F64, Line

_BITS = 40
_ROUNDS, _COUNTS = 6, (1, 2, 4)
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
_SOME = 2**16


def of_groups(groups: Groups, scales: Scales, centroids: F64, most: int, width: int) -> Tensor:
    """The outliers of groups: bool [N, width].

    Args:
        groups: the weight, its groups row by row.
        scales: theirs.
        centroids: for these.
        most: at most so many.
        width: inputs of a row.
    """
    apart = torch.zeros(groups.values.shape, dtype=torch.bool)
    error = scales.error * groups.worth
    at, left = torch.arange(len(error)), groups
    for _ in range(_ROUNDS):
        bar = _BITS * math.log(4) * float(error.sum()) / apart.numel()
        loud = error[at] > bar
        at, left = at[loud], left.take(loud)
        if most == 0 or not len(at):
            break
        # One of two weights gone may help no more than none: so several are tried together.
        order = (
            torch.where(left.h > 0, left.values.abs(), 0.0)
            .topk(min(_COUNTS[-1], apart.shape[1]))
            .indices
        )
        gain, count = torch.full((len(at),), -torch.inf).double(), torch.zeros_like(at)
        for several in (n for n in _COUNTS if n < apart.shape[1]):
            gone = torch.zeros_like(left.h, dtype=torch.bool).scatter(1, order[:, :several], True)
            rest = left.without(gone)
            now = error[at] - rest.scales(centroids).error * rest.worth - several * bar
            count = torch.where(now > gain, several, count)
            gain = torch.maximum(now, gain)
        best = (gain / count).argsort(descending=True, stable=True)
        best = best[(gain[best] > 0) & (count[best].cumsum(0) <= most)]
        for several in count[best].unique():
            chosen = best[count[best] == several]
            apart[at[chosen, None], order[chosen, :several]] = True
        error[at[best]] -= gain[best] + count[best] * bar
        most -= int(count[best].sum())
        left = left.take(best).without(apart[at[best]])
        at = at[best]
    return apart.view(-1, -(-width // apart.shape[1]) * apart.shape[1])[:, :width]


def of_tensor(weight: Tensor, metric: Metric, levels: int, most: int) -> Tensor:
    """The outliers of a weight [N, K] that has one scale, its largest: bool [N, K]."""
    apart = torch.zeros(weight.shape, dtype=torch.bool)
    magnitudes = weight.abs().flatten()
    order = magnitudes.argsort(descending=True, stable=True)[:most]
    step = max(1, weight.numel() // _SOME)
    weights = (metric.counts[:, None] * metric.h).flatten()

    def cost(count: int) -> float:
        left = torch.ones(weight.numel(), dtype=torch.bool)
        left[order[:count]] = False
        values, worth = (one.flatten()[left][::step].double().numpy() for one in (weight, weights))
        line = Line(values, worth)
        error = line.error(line.centroids(levels))
        return math.log(max(error, 1e-300)) + math.log(4) * _BITS * count / weight.numel()

    best = min({0, *(int(share * most) for share in _SHARES)}, key=cost)
    apart.view(-1)[order[:best]] = True
    return apart
