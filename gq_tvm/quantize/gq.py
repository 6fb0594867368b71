"""GQ: weights are softly, then firmly, assigned to centroids that learn.

[P] (arXiv 2210.09188): centroids adjust themselves in a mu-law constrained space, under a
softmax that is annealed from soft to hard; nothing is added to the loss.
[A] (NSC, the first author's earlier quantiser): the distance is |u - c|, not squared; centroids
start evenly on [-1, 1], mu is fixed.
The rest is our reconstruction [C], in particular: the scale max|W|, starting at Lloyd-Max or at
cell midpoints, the softmax over the two nearest centroids only, hardness measured as
K = alpha * spacing, a mu that learns, and the straight-through fine-tune at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gq_tvm.quantize import mulaw
from gq_tvm.quantize.bucketize import Buckets
from gq_tvm.quantize.lloyd_max import cell_midpoints, lloyd_max
from gq_tvm.quantize.quantizer import Quantizer, SnapToInt8

MU = 255.0
#: Where centroids may start, in the space of u.
STARTS = ("lloyd-max", "uniform")


class GQ(Quantizer):
    """The soft-to-hard quantiser of one weight.

    With ``s = max|W|`` (no gradient), ``u = F(W / s)``, F the mu-law curve, and centroids c:

    * soft: ``s F^-1(sum_j softmax_j(-alpha |u - c_j|) c_j)`` over the two nearest c_j, with
      ``alpha = K / mean spacing``;
    * hard: ``s F^-1(c_j)`` for the nearest c_j, with a straight-through gradient to W and the
      true one, for that choice, to the centroid and to mu. With ``int8_grid`` the values lie on
      an int8 grid, so a deployed int8 kernel computes what was trained.

    Args:
        weight: float [N, ...], finite.
        bits: 1 to 8.
        int8_grid: see ``Quantizer``.
        per_row: see ``Quantizer``.
        mu: of the mu-law; 0 keeps the linear space.
        learn_mu: mu is where a parameter starts, kept above 0 by its logarithm ``log_mu``.
        learn_centroids: False leaves the centroids where they start.
        start: ``"lloyd-max"`` of the weight in the space of u, or ``"uniform"``: the midpoints
            of equal cells of [-1, 1].
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
            u = mulaw.compress(_ratio(weight.detach(), self.largest(weight)), mu)
            centroids = lloyd_max(u, 2**bits)
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
        # Sorting keeps the centroids in order however they learn, and passes gradients on.
        ordered = self.centroids.sort().values
        if self.hardness.hard:
            shape = self._expanded(ordered)
            return _Assign.apply(weight, shape, scale, self._nearest(weight, scale, ordered))
        span = float((ordered[-1] - ordered[0]).detach())
        alpha = self.hardness.k * (ordered.numel() - 1) / max(span, 1e-30)
        return _Soft.apply(weight, ordered, scale, alpha, self.mu)

    @torch.no_grad()
    def harden(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Indices u8 (shape of the weight) and codebook f32 [1 or N, 2^bits], ascending."""
        scale = self.largest(weight)
        ordered = self.centroids.sort().values
        indices = self._nearest(weight, scale, ordered).to(torch.uint8)
        codebook = scale.view(-1, 1) * self._expanded(ordered)
        return indices, codebook.float()

    def _expanded(self, ordered: Tensor) -> Tensor:
        shape = mulaw.expand(ordered, self.mu)
        return SnapToInt8.apply(shape) if self.int8_grid else shape

    def _nearest(self, weight: Tensor, scale: Tensor, ordered: Tensor) -> Tensor:
        u = mulaw.compress(_ratio(weight.detach(), scale), _number(self.mu))
        return Buckets(((ordered[1:] + ordered[:-1]) / 2).detach())(u)


def _ratio(weight: Tensor, scale: Tensor) -> Tensor:
    """``weight / scale``, and 0 in rows of zeros."""
    return weight / torch.where(scale > 0, scale, 1)


def _number(mu: float | Tensor) -> float:
    return mu.item() if isinstance(mu, Tensor) else mu


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
        return grad, _sum_by(indices, grad * scale, ctx.levels), None, None


class _Soft(torch.autograd.Function):
    """``scale * F^-1(left + p (right - left))`` between the two centroids nearest to each weight.

    ``p = sigmoid(alpha (|u - left| - |u - right|))`` is the softmax over the two. The derivatives
    are worked out on the way forward, where the logarithm and the exponential are at hand: with
    them the slopes of F and F^-1 cost nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        centroids: Tensor,
        scale: Tensor,
        alpha: float,
        mu: float | Tensor,
    ) -> Tensor:
        curve = _number(mu)
        ratio = _ratio(weight, scale)
        u, u_slope = mulaw.compress_with_slope(ratio, curve)
        moves_mu = ctx.needs_input_grad[4]
        u_by_mu = mulaw.compress_by_mu(ratio, u, u_slope, curve) if moves_mu else None
        del ratio
        # Inner centroids as bounds: a count is the number of the centroid on the left, and values
        # beyond the outermost centroids fall in with the outermost pair.
        lefts = Buckets(centroids[1:-1])(u)
        low = centroids.index_select(0, lefts.view(-1)).view(u.shape)
        gap = centroids.diff().index_select(0, lefts.view(-1)).view(u.shape)
        position = u.sub_(low)
        between = torch.minimum(position.clamp(min=0), gap)
        below, above = position < 0, position > between
        p = between.sub_(gap, alpha=0.5).mul_(2 * alpha).sigmoid_()
        y = low.addcmul_(p, gap)
        mixed, slope = mulaw.expand_with_slope(y, curve)

        steep = torch.addcmul(p, p, p, value=-1).mul_(gap).mul_(alpha)
        by_u = (steep * slope).mul_(2)
        by_u.masked_fill_(below | above | (scale == 0), 0)
        by_mu = by_left = by_right = None
        if u_by_mu is not None:
            by_mu = u_by_mu.mul_(by_u).add_(mulaw.expand_by_mu(y, mixed, slope, curve)).mul_(scale)
        if ctx.needs_input_grad[1]:
            # Beyond the outermost centroid, p rises as that centroid moves outwards.
            slope.mul_(scale)
            by_left = (1 - p).sub_(torch.where(below, -steep, steep)).mul_(slope)
            by_right = p.sub_(torch.where(above, -steep, steep)).mul_(slope)
        ctx.save_for_backward(by_u.mul_(u_slope), by_left, by_right, by_mu, lefts)
        ctx.levels = centroids.numel()
        return mixed.mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, Tensor | None]:
        by_weight, by_left, by_right, by_mu, lefts = ctx.saved_tensors
        grad_centroids = None
        if by_left is not None:
            grad_centroids = grad.new_zeros(ctx.levels)
            grad_centroids[:-1] += _sum_by(lefts, grad * by_left, ctx.levels - 1)
            grad_centroids[1:] += _sum_by(lefts, grad * by_right, ctx.levels - 1)
        grad_mu = None if by_mu is None else torch.vdot(grad.reshape(-1), by_mu.reshape(-1))
        return grad * by_weight, grad_centroids, None, None, grad_mu


def _sum_by(indices: Tensor, values: Tensor, count: int) -> Tensor:
    flat = indices.reshape(-1)
    return torch.bincount(flat, values.reshape(-1), minlength=count).to(values.dtype)
