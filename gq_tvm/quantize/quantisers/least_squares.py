"""The codebook that holds a trained weight with the least squared error, as deployed [C].

One codebook for the tensor is Lloyd-Max's, on an int8 grid where kernels have no other. With a
scale for each row, a row's codebook is ``scale x shape``; scales and shape are found by turns, and
never err more than the tensor's codebook.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gq_tvm.ops.rounding import SMALLEST_LIVE
from gq_tvm.ops.torch_weight import WeightTensors, expand
from gq_tvm.quantize.quantisers.bucketize import Buckets
from gq_tvm.quantize.quantisers.int8_grid import EVERY_STEP, LARGEST, on_grid
from gq_tvm.quantize.quantisers.lloyd_max import F64, Line
from gq_tvm.quantize.quantisers.quantizer import Quantizer
from gq_tvm.quantize.quantisers.row_scales import best_scales, some_columns

# Left open, rows have scales where that halves what they lose of their norms on the tensor's int8
# grid. It is tried where they lose more than this, and more than any scales could halve: rows of
# evenly spread weights lose 1 / levels.
_ROW_LOSS, _GAIN = 0.02, 0.5


class LeastSquares(Quantizer):
    """The quantiser of a weight that trains no further.

    Args:
        weight: f32 [N, ...], finite.
        bits: 1 to 8.
        int8_grid: see ``Quantizer``.
        per_row: see ``Quantizer``; None: where it halves what rows lose on one int8 grid.

    Attributes:
        lost: the L2 norm of what deployment changes, over that of the weight; 0 for all zeros.
    """

    def __init__(
        self, weight: Tensor, bits: int, int8_grid: bool = False, per_row: bool | None = False
    ) -> None:
        fit = _fit(weight.detach().cpu().flatten(1), 2**bits, int8_grid, per_row)
        super().__init__(bits, int8_grid, len(fit.scale) > 1)
        arrays = fit.indices.view(weight.shape), fit.codebook, fit.scale
        self._weight = WeightTensors(*(array.to(weight.device) for array in arrays))
        self.lost = fit.lost

    def forward(self, weight: Tensor) -> Tensor:
        """The deployed values; no gradient."""
        return expand(self.harden(weight))

    def harden(self, weight: Tensor) -> WeightTensors:
        """What was found for the weight this was made with."""
        return self._weight


@dataclass(frozen=True)
class _Fit:
    """Rows [N, K] in a codebook: indices u8 [N, K], codebook f32 [1, levels], scale f32 [1 or N].

    ``error`` and ``norm``, f64 [N], are of each row, squared.
    """

    indices: Tensor
    codebook: Tensor
    scale: Tensor
    error: F64
    norm: F64

    @property
    def lost(self) -> float:
        norm = self.norm.sum()
        return float(np.sqrt(self.error.sum() / norm)) if norm > 0 else 0.0

    @property
    def row_loss(self) -> float:
        """The share of its norm that a row loses, root mean square over rows."""
        live = self.norm > 0
        return float(np.sqrt((self.error[live] / self.norm[live]).mean())) if live.any() else 0.0


def _fit(rows: Tensor, levels: int, int8_grid: bool, per_row: bool | None) -> _Fit:
    shape, size = _shape(Line(rows.numpy().reshape(-1)), levels, int8_grid)
    tensor = _assigned(rows, levels, shape, np.array([size]))
    if per_row is False or len(rows) == 1:
        return tensor
    if per_row is None and not (int8_grid and tensor.row_loss > max(_ROW_LOSS, 2 / levels)):
        return tensor
    by_row = _fit_rows(rows, levels, int8_grid)
    if per_row is None:
        return by_row if by_row.row_loss < _GAIN * tensor.row_loss else tensor
    if by_row.error.sum() > tensor.error.sum():
        return replace(tensor, scale=tensor.scale.repeat(len(rows)))
    return by_row


def _fit_rows(rows: Tensor, levels: int, int8_grid: bool) -> _Fit:
    """With a scale for each row, which is at first the row's largest weight."""
    largest = rows.abs().amax(1).double().numpy()
    live = largest >= SMALLEST_LIVE  # the others become 0
    if not live.any():
        return _assigned(rows, levels, np.ones(1), np.zeros(len(rows)))
    sizes = largest[live]
    some, count = some_columns(rows.numpy()[live] / sizes[:, None])

    def better_scales(shape: F64, scales: F64) -> F64:
        return best_scales(some, count, shape, scales)

    def shape_for(scales: F64) -> tuple[F64, F64]:
        weights = (scales * sizes / sizes.max())[:, None] ** 2 * count
        line = Line((some / scales[:, None]).reshape(-1), weights.reshape(-1))
        shape, size = _shape(line, levels, int8_grid)
        return shape, scales * size

    shape, scales = EVERY_STEP / LARGEST, np.ones(len(sizes))
    if not int8_grid or levels < len(EVERY_STEP):
        # One more turn: a third gains next to nothing.
        shape, scales = shape_for(better_scales(*shape_for(scales)))
    whole = np.zeros(len(rows))
    whole[live] = better_scales(shape, scales) * sizes
    return _assigned(rows, levels, shape, whole, polish=True)


def _shape(line: Line, levels: int, int8_grid: bool) -> tuple[F64, float]:
    """The centroids that err least, as a shape of largest magnitude 1, and its size."""
    centroids = line.centroids(levels)
    if int8_grid:
        grid = on_grid(line, centroids, levels)
        centroids = grid.step * grid.numbers
    size = float(np.abs(centroids).max())
    return (centroids / size, size) if size > 0 else (np.ones(1), 0.0)


def _assigned(rows: Tensor, levels: int, shape: F64, sizes: F64, polish: bool = False) -> _Fit:
    """Each weight to its nearest centroid of ``sizes [1 or N] x shape``.

    With ``polish`` sizes are fitted once more, to all weights where they are now.
    """
    nearest = Buckets(torch.from_numpy((shape[1:] + shape[:-1]) / 2).float())
    values = torch.from_numpy(shape).float()

    def indices_for(sizes: F64) -> Tensor:
        by = torch.from_numpy(np.where(sizes > 0, sizes, 1)).float()
        return nearest(rows / by[:, None])

    indices = indices_for(sizes)
    if polish:
        taken = values[indices].double().numpy()
        along = np.einsum("nk,nk->n", rows.double().numpy(), taken)
        square = np.einsum("nk,nk->n", taken, taken)
        fitted = along / np.where(square > 0, square, 1)
        sizes = np.where((sizes > 0) & (fitted > 0), fitted, sizes)
        indices = indices_for(sizes)
    shape = np.append(shape, np.repeat(shape[-1:], levels - len(shape)))
    codebook, scale = (torch.from_numpy(one).float() for one in (shape[None], sizes))
    deployed = expand(WeightTensors(indices, codebook, scale))
    missed = (deployed.double() - rows).numpy()
    weights = rows.double().numpy()
    error, norm = (np.einsum("nk,nk->n", a, a) for a in (missed, weights))
    return _Fit(indices.to(torch.uint8), codebook, scale, error, norm)
