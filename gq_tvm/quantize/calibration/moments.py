"""Second moments and means of what a weight is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TOGETHER = 1024  # rows: single ones, of a state, wait for others


class Moments:
    """Second moments of the rows x that a weight meets, as far as those tell of others too.

    Pairs of inputs that few rows saw together seem to depend on one another by chance, and a fit
    would rely on it: their covariances are brought nearer to 0 by the share that leaves the least
    expected error (Schaefer and Strimmer 2005, target D).

    Args:
        width: K.

    Attributes:
        count: rows seen.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._origin: Tensor | None = None  # near the mean: what is far from 0 cancels badly
        self._square = torch.zeros(width, width)
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._fourth = 0.0  # of pairs: the sum of x_i^2 x_j^2, i and j not the same
        self._waiting: list[Tensor] = []
        self._waits = 0

    def add(self, rows: Tensor) -> None:
        """Add rows f32 [..., K]."""
        rows = rows.reshape(-1, rows.shape[-1])
        self.count += len(rows)
        self._waits += len(rows)
        self._waiting.append(rows.cpu())
        if self._waits >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        if self._waits:
            rows = torch.cat(self._waiting)
            if self._origin is None:
                self._origin = rows.mean(0)
            rows = rows - self._origin
            self._square.addmm_(rows.T, rows)
            self._sum += rows.sum(0, dtype=torch.float64)
            squares = rows.square()
            self._fourth += float((squares.sum(1).square() - squares.square().sum(1)).sum())
        self._waiting, self._waits = [], 0

    def square(self, central: bool = False) -> Tensor:
        """The sum of x x^T, or with ``central`` of (x - mean) (x - mean)^T: f32 [K, K]."""
        self._settle()
        if self._origin is None:
            return self._square
        mean = self._sum / self.count
        found = self._square - self.count * torch.outer(mean, mean).float()
        diagonal = found.diagonal().clone()
        found = found * (1 - self._chance(found))
        found.diagonal().copy_(diagonal)
        if not central:
            mean = mean + self._origin
            found += self.count * torch.outer(mean, mean).float()
        return found

    def _chance(self, covariance: Tensor) -> float:
        """The share of the covariances, a sum, that is taken for chance."""
        power = float(covariance.square().sum() - covariance.diagonal().square().sum())
        if power <= 0:
            return 0.0
        return min(1.0, max(0.0, self._fourth / power - 1 / self.count))

    @property
    def nbytes(self) -> int:
        """Of the matrix."""
        return self._square.nbytes


@dataclass
class _Sums:
    count: int
    sum: Tensor
    power: float


class Means:
    """Means of x, for each part of a weight's rows that meets inputs of its own."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], _Sums] = {}

    def add(self, first: int, count: int, rows: Tensor) -> None:
        """Add rows f32 [..., K] that met the weight's rows from ``first``, ``count`` of them."""
        rows = rows.reshape(-1, rows.shape[-1])
        zeros = torch.zeros(rows.shape[1], dtype=torch.float64)
        part = self._parts.setdefault((first, count), _Sums(0, zeros, 0.0))
        part.count += len(rows)
        part.sum += rows.sum(0, dtype=torch.float64).cpu()
        part.power += float(rows.square().sum())

    @property
    def parted(self) -> bool:
        """Whether some rows of the weight met other inputs than others."""
        return len(self._parts) > 1

    def products(self, weight: Tensor) -> Tensor:
        """``W E[x]`` for the rows of a weight f32 [N, K]: f64 [N], 0 for rows that met nothing."""
        products = torch.zeros(len(weight), dtype=torch.float64)
        for (first, count), part in self._parts.items():
            rows = weight[first : first + count].double().cpu()
            products[first : first + count] = rows @ (part.sum / max(1, part.count))
        return products

    def powers(self, count: int) -> Tensor:
        """The sum of x^2 that each of a weight's rows met: f64 [N]."""
        powers = torch.zeros(count, dtype=torch.float64)
        for (first, size), part in self._parts.items():
            powers[first : first + size] += part.power
        return powers
