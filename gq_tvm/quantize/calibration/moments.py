"""Second moments and means of what a weight is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TOGETHER = 1024  # rows: single ones, of a state, wait for others


class Moments:
    """The sum of x x^T over rows, and sums of x by the rows of the weight that meet them.

    Args:
        width: K.

    Attributes:
        count: rows seen.
        square: f32 [K, K], the sum of x x^T.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._square = torch.zeros(width, width)
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
        if self._waiting:
            rows = torch.cat(self._waiting)
            self._square.addmm_(rows.T, rows)
        self._waiting, self._waits = [], 0

    @property
    def square(self) -> Tensor:
        """The sum of x x^T: f32 [K, K]."""
        self._settle()
        return self._square

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
