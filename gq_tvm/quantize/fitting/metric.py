"""What an error of a weight counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gq_tvm.errors import Error

# Of each second moment, and of their mean, added to each. GPTQ adds a hundredth of the mean to all,
# and so takes an input of a hundredth of the mean power for one of twice that [C].
_DAMPING, _LEAST = 0.01, 1e-5


@dataclass(frozen=True)
class Metric:
    """Errors E [N, K] count ``sum over n of counts[n] * E[n] H E[n]^T``.

    Attributes:
        moments: f64 [K, K], H: the inputs' second moments, of mean diagonal 1, damped; None: 1.
        added: f64 [K], what the damping added to its diagonal.
        h: f64 [K], what the error of each column counts where others make good for it as far as
            they can: ``1 / diag(H^-1)``.
        counts: f64 [N], above 0, the mean about 1.
    """

    moments: Tensor | None
    h: Tensor
    counts: Tensor
    added: Tensor

    @staticmethod
    def of(moments: Tensor | None, rows: Tensor | None, shape: torch.Size) -> Metric:
        """The metric of a weight [N, K].

        Raises:
            Error: shapes do not fit, or something is NaN, infinite or negative.
        """
        counts, ones = _counts(rows, shape[0]), torch.ones(shape[1], dtype=torch.float64)
        if moments is None:
            return Metric(None, ones, counts, torch.zeros_like(ones))
        if moments.shape != (shape[1], shape[1]):
            got = ", ".join(map(str, moments.shape))
            raise Error(f"fit: moments must have shape [{shape[1]}, {shape[1]}], got [{got}].")
        moments = moments.detach().cpu().double()
        mean = moments.diagonal().mean()
        if not torch.isfinite(moments).all() or (moments.diagonal() < 0).any():
            raise Error("fit: moments hold NaN or infinity, or a negative square.")
        if mean == 0:
            return Metric(None, ones, counts, torch.zeros_like(ones))
        moments = (moments + moments.T) / (2 * mean)
        added = _DAMPING * moments.diagonal() + _LEAST
        moments.diagonal().add_(added)
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
        except torch.linalg.LinAlgError:
            raise Error("fit: moments are no sum of squares.") from None
        return Metric(moments, 1 / inverse.diagonal(), counts, added)

    def power(self, rows: Tensor) -> float:
        """What errors [N, K] count in all, without the damping."""
        rows = rows.double()
        along = rows if self.moments is None else rows @ self.moments - self.added * rows
        return max(float(((along * rows).sum(1) * self.counts).sum()), 0.0)


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
