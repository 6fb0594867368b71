"""A codebook and its scales while they are being fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.quantisers.lloyd_max import F64

# The largest scale of groups, as float16: down to a 2^22th of it scales keep their 11 bits.
_LARGEST_SCALE = 2.0**8


@dataclass(frozen=True)
class Book:
    """Values ``scale x centroids``.

    Attributes:
        centroids: f64 [levels or fewer], ascending, of largest magnitude 1; times 127 whole
            numbers on an int8 grid.
        scale: f64 [1, 1], [N, 1] or [N, J]; 0 makes zeros.
        group: inputs of a group, 0 where a row has one scale.
    """

    centroids: F64
    scale: Tensor
    group: int

    def as_stored(self) -> Book:
        """With the scales rounded to what they are stored as."""
        if not self.group:
            return replace(self, scale=self.scale.float().double())
        return replace(self, scale=(self.scale / self._unit()).half().double() * self._unit())

    def by_input(self, width: int) -> Tensor:
        """The scale of each weight: f32 [1 or N, width], or [1 or N, 1]."""
        scale = self.scale.float()
        return scale.repeat_interleave(self.group, 1)[:, :width] if self.group else scale

    def values(self, indices: Tensor) -> Tensor:
        """What indices, integers [K, N], stand for: f32 [K, N]."""
        table = torch.from_numpy(self.centroids).float()
        return table[indices] * self.by_input(len(indices)).t()

    def nearest(self, weight: Tensor) -> Tensor:
        """The indices of the nearest values: i64 [N, K], for a weight f32 [N, K]."""
        scale = self.by_input(weight.shape[1])
        table = torch.from_numpy(self.centroids).float()
        bounds = (table[1:] + table[:-1]) / 2
        return torch.bucketize(weight / torch.where(scale != 0, scale, torch.inf), bounds)

    def tensors(self, indices: Tensor, levels: int, size: float) -> WeightTensors:
        """The weight as stored, times a size; indices [N, K], integers of any kind."""
        spare = np.repeat(self.centroids[-1:], levels - len(self.centroids))
        table = torch.from_numpy(np.concatenate([self.centroids, spare]))[None]
        if self.group:
            table, scale = table * (self._unit() * size), (self.scale / self._unit()).half()
        else:
            scale = (self.scale[:, 0] * size).float()
        return WeightTensors(indices.to(torch.uint8), table.float(), scale)

    def _unit(self) -> float:
        """What scales of groups are multiples of, about."""
        return float(self.scale.abs().amax()) / _LARGEST_SCALE or 1.0
