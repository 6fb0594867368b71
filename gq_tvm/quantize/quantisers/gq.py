"""GQ: weights are softly, then firmly, assigned to centroids that learn.

[P] (arXiv 2210.09188): centroids adjust themselves in a mu-law constrained space, under a
softmax that is annealed from soft to hard; nothing is added to the loss.
[A] (NSC, the first author's earlier quantiser): the distance is |x - c|, not squared; centroids
start evenly on [-1, 1], mu is fixed.
The rest is our reconstruction [C], in particular: the scale max|W|, starting at Lloyd-Max or at
cell midpoints, the softmax over the two nearest centroids only, hardness measured as
K = alpha * spacing, a mu that learns, and the straight-through fine-tune at the end.

Centroids live and learn in the mu-law space; distances are measured between weights, not between
their companded values [C]. Companded distances push weights to outer centroids: at two bits,
without training, they took a recogniser of digits from 10% to 19% of words wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.quantisers import mulaw
from gq_tvm.quantize.quantisers.bucketize import Buckets
from gq_tvm.quantize.quantisers.lloyd_max import cell_midpoints, lloyd_max
from gq_tvm.quantize.quantisers.quantizer import Quantizer, SnapToInt8, sum_by

MU = 255.0
#: Where centroids may start, in the space of u.
STARTS = ("lloyd-max", "uniform")


class GQ(Quantizer):
    """The soft-to-hard quantiser of one weight.

    With ``s = max|W|`` (no gradient), centroids c and F the mu-law curve, weights take values
    ``s v`` of ``v = F^-1(c)``:

    * soft: ``s sum_j softmax_j(-alpha |W / s - v_j|) v_j`` over the two nearest v_j, with
      ``alpha = K / (their distance)``;
    * hard: ``s v_j`` for the nearest v_j, with a straight-through gradient to W and the true one,
      for that choice, to the centroid and to mu. With ``int8_grid`` the values lie on an int8
      grid, so a deployed int8 kernel computes what was trained.

    Args:
        weight: float [N, ...], finite.
        bits: 1 to 8.
        int8_grid: see ``Quantizer``.
        per_row: see ``Quantizer``.
        mu: of the mu-law; 0 keeps the linear space.
        learn_mu: mu is where a parameter starts, kept above 0 by its logarithm ``log_mu``.
        learn_centroids: False leaves the centroids where they start.
        start: ``"lloyd-max"`` of the weight, or ``"uniform"``: the midpoints of equal cells of
            [-1, 1] in the mu-law space.
    """

    centroids: Tensor

    def __init__(
        self,
        weight: Tensor,
        bits: int,
        int8_grid: bool = False,
        per_row: bool = False,
        mu: float = MU,
        learn_mu: bool = False,
        learn_centroids: bool = True,
        start: str = "lloyd-max",
    ) -> None:
        super().__init__(bits, int8_grid, per_row)
        self._fixed_mu = mu
        self.log_mu = nn.Parameter(weight.new_tensor(mu).log()) if learn_mu else None
        if start == "uniform":
            centroids = cell_midpoints(2**bits)
        else:
            values = lloyd_max(_ratio(weight.detach(), self.largest(weight)), 2**bits)
            centroids = mulaw.compress(values, mu)
        centroids = centroids.to(weight.device, weight.dtype)
        if learn_centroids:
            self.centroids = nn.Parameter(centroids)
        else:
            self.register_buffer("centroids", centroids)

    @property
    def mu(self) -> float | Tensor:
        """mu at present; a tensor [] that passes its gradient on where mu learns."""
        return self._fixed_mu if self.log_mu is None else self.log_mu.exp()

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as its layer sees it in training: same shape, differentiable.

        The gradient reaches the weight, the centroids and mu where they learn, not the scale.
        """
        if not self.hardness.applied:
            return weight
        scale = self.largest(weight)
        values = self._values()
        if self.hardness.hard:
            nearest = self._nearest(weight, scale, values)
            return _Assign.apply(weight, self._on_grid(values), scale, nearest)
        return _Soft.apply(weight, values, scale, self.hardness.k)

    @torch.no_grad()
    def harden(self, weight: Tensor) -> WeightTensors:
        """See ``Quantizer``; the table ascends."""
        scale = self.largest(weight)
        values = self._values()
        indices = self._nearest(weight, scale, values).to(torch.uint8)
        codebook = self._on_grid(values).detach()[None].float()
        return WeightTensors(indices, codebook, scale.reshape(-1).float())

    def _values(self) -> Tensor:
        """v: what the centroids stand for, ascending."""
        # Sorting keeps the centroids in order however they learn, and passes gradients on.
        return mulaw.expand(self.centroids.sort().values, self.mu)

    def _on_grid(self, values: Tensor) -> Tensor:
        return SnapToInt8.apply(values) if self.int8_grid else values

    def _nearest(self, weight: Tensor, scale: Tensor, values: Tensor) -> Tensor:
        bounds = ((values[1:] + values[:-1]) / 2).detach()
        return Buckets(bounds)(_ratio(weight.detach(), scale))


def _ratio(weight: Tensor, scale: Tensor) -> Tensor:
    """``weight / scale``, and 0 in rows of zeros."""
    return weight / torch.where(scale > 0, scale, 1)


class _Assign(torch.autograd.Function):
    """``scale * shape[indices]``; the gradient goes to the weight unchanged and to the shape."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, shape: Tensor, scale: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(scale, indices)
        ctx.levels = shape.numel()
        return shape.index_select(0, indices.reshape(-1)).view(weight.shape).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        scale, indices = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return grad, None, None, None
        return grad, sum_by(indices, grad * scale, ctx.levels), None, None


class _Soft(torch.autograd.Function):
    """``scale * (left + p (right - left))`` between the two values nearest to each weight.

    With t in [0, 1] the weight's place between them, ``p = sigmoid(K (2 t - 1))`` is the softmax
    over the two. Beyond the outermost value it no longer depends on the weight, whose gradient is 0
    there. The derivatives are worked out on the way forward.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, scale: Tensor, k: float) -> Tensor:
        ratio = _ratio(weight, scale)
        # Inner values as bounds: a count is the number of the value on the left, and weights
        # beyond the outermost fall in with the outermost pair.
        lefts = Buckets(values[1:-1])(ratio)
        gaps = values.diff()
        left = values.index_select(0, lefts.view(-1)).view(ratio.shape)
        gap = gaps.index_select(0, lefts.view(-1)).view(ratio.shape)
        place = ratio.sub_(left).div_(gap.clamp(min=torch.finfo(gap.dtype).tiny))
        outside = (place < 0) | (place > 1) | (scale == 0)
        place.clamp_(0, 1)
        p = place.mul(2).sub_(1).mul_(k).sigmoid_()
        steep = torch.addcmul(p, p, p, value=-1).mul_(2 * k).masked_fill_(outside, 0)
        mixed = left.addcmul_(p, gap).mul_(scale)
        by_left = by_right = None
        if ctx.needs_input_grad[1]:
            by_right = torch.addcmul(p, steep, place, value=-1)
            by_left = (1 - steep).sub_(by_right).mul_(scale)
            by_right.mul_(scale)
        ctx.save_for_backward(steep, by_left, by_right, lefts)
        ctx.levels = values.numel()
        return mixed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        steep, by_left, by_right, lefts = ctx.saved_tensors
        by_value = None
        if by_left is not None:
            by_value = grad.new_zeros(ctx.levels)
            by_value[:-1] += sum_by(lefts, grad * by_left, ctx.levels - 1)
            by_value[1:] += sum_by(lefts, grad * by_right, ctx.levels - 1)
        return grad * steep, by_value, None, None
