"""A weight and what it is fed, turned so that a column of the weight lies together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gq_tvm.quantize.fitting.book import Book


@dataclass(frozen=True)
class Layer:
    """Whose outputs are to err little.

    Attributes:
        weight: f32 [K, N].
        h: f32 [K, K], the inputs' second moments.
        counts: f64 [N], what the error of each output counts.
        apart: bool [K, N], the outliers, which take any value; None: none.
    """

    weight: Tensor
    h: Tensor
    counts: Tensor
    apart: Tensor | None

    def errors(self, values: Tensor) -> Tensor:
        """What each output errs with weights f32 [K, N]: f64 [N]."""
        missed = values - self.weight
        return ((self.h @ missed) * missed).sum(0, dtype=torch.float64) * self.counts

    def coded(self, values: Tensor) -> Tensor:
        """Values [K, N] with 0 for outliers."""
        return values if self.apart is None else torch.where(self.apart, 0.0, values)

    def values(self, book: Book, indices: Tensor, before: Tensor) -> Tensor:
        """What indices [K, N] stand for, f32 [K, N]; outliers stay as they were."""
        values = book.values(indices)
        return values if self.apart is None else torch.where(self.apart, before, values)
