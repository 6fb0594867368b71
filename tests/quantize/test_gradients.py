"""The gradients of GQ against finite differences, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gq_tvm.quantize.quantisers import mulaw
from gq_tvm.quantize.quantisers.gq import GQ
from gq_tvm.quantize.quantisers.lloyd_max import cell_midpoints
from gq_tvm.quantize.quantisers.quantizer import Hardness

BITS = (1, 2, 4, 8)
STEP = 2e-8
ELEMENTS = 24


class Fixed(GQ):
    """GQ with the scale, which carries no gradient, held still."""

    _scale: Tensor | None = None

    def __init__(self, weight: Tensor, bits: int, k: float, **options: object) -> None:
        super().__init__(weight, bits, **options)  # type: ignore[arg-type]
        # Distinct and unevenly spaced, with weights beyond both outermost centroids.
        self.centroids.data = (cell_midpoints(2**bits) * 0.8).sin()
        self._scale = super().largest(weight)
        self.hardness = Hardness(k)

    def largest(self, weight: Tensor) -> Tensor:
        return super().largest(weight) if self._scale is None else self._scale


def check(quantizer: Fixed, weight: Tensor, moved: Tensor, by_moved: Tensor, grad: Tensor) -> None:
    """Compare ``by_moved``, the gradient of ``sum(grad * quantizer(weight))``, with differences."""
    flat = moved.detach().view(-1)
    numbers = range(0, flat.numel(), max(1, flat.numel() // ELEMENTS))
    found = []
    for number in numbers:
        there = flat[number].item()
        sums = []
        for side in (STEP, -STEP):
            flat[number] = there + side
            sums.append((grad * quantizer(weight)).sum().item())
        flat[number] = there
        found.append((sums[0] - sums[1]) / (2 * STEP))
    wanted = moved.new_tensor(found)
    assert wanted.any()
    torch.testing.assert_close(
        by_moved.flatten()[list(numbers)], wanted, atol=1e-7 * float(wanted.abs().max()), rtol=1e-5
    )


def weights() -> Tensor:
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1


@torch.no_grad()
def away_from_kinks(quantizer: Fixed, weight: Tensor) -> Tensor:
    """Move each weight that lies on a centroid or where the nearest centroid changes."""
    values = mulaw.expand(quantizer.centroids.sort().values, quantizer.mu)
    kinks = quantizer.largest(weight) * torch.cat([values, (values[1:] + values[:-1]) / 2])
    kinks = kinks.expand(len(weight), -1)
    for _ in range(20):
        close = (weight[..., None] - kinks[:, None]).abs().amin(-1) < 20 * STEP
        weight = torch.where(close, weight + 41 * STEP, weight)
    return weight


@pytest.mark.parametrize(("k", "per_row"), [(1.0, False), (4.0, True), (15.0, False)])
@pytest.mark.parametrize("bits", BITS)
def test_soft_gradients_are_finite_differences(bits, k, per_row):
    quantizer: Any = Fixed(weights(), bits, k, per_row=per_row, mu=63.0, learn_mu=True)
    weight = away_from_kinks(quantizer, weights()).requires_grad_()
    grad = weights().flip(0)
    moved = (weight, quantizer.centroids, quantizer.log_mu)
    got = torch.autograd.grad((grad * quantizer(weight)).sum(), moved)
    for tensor, by_tensor in zip(moved, got, strict=True):
        check(quantizer, weight, tensor, by_tensor, grad)


@pytest.mark.parametrize("bits", [1, 3])
def test_soft_gradients_in_the_linear_space(bits):
    quantizer = Fixed(weights(), bits, 3.0, mu=0.0)
    weight = away_from_kinks(quantizer, weights()).requires_grad_()
    grad = weights().flip(0)
    moved = (weight, quantizer.centroids)
    got = torch.autograd.grad((grad * quantizer(weight)).sum(), moved)
    for tensor, by_tensor in zip(moved, got, strict=True):
        check(quantizer, weight, tensor, by_tensor, grad)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_hard_gradients_are_finite_differences(bits, per_row):
    quantizer: Any = Fixed(weights(), bits, float("inf"), per_row=per_row, mu=63.0, learn_mu=True)
    weight = away_from_kinks(quantizer, weights()).requires_grad_()
    grad = weights().flip(0)
    moved = (weight, quantizer.centroids, quantizer.log_mu)
    by_weight, *got = torch.autograd.grad((grad * quantizer(weight)).sum(), moved)
    assert torch.equal(by_weight, grad)  # straight through
    for tensor, by_tensor in zip(moved[1:], got, strict=True):
        check(quantizer, weight, tensor, by_tensor, grad)


@pytest.mark.parametrize("k", [5.0, float("inf")])
@pytest.mark.parametrize("learn_mu", [False, True])
def test_no_gradient_is_taken_that_nobody_asked_for(monkeypatch, k, learn_mu):
    if not learn_mu:  # which is reached through the centroids' values
        monkeypatch.setattr("gq_tvm.quantize.quantisers.gq.sum_by", None)
    weight = weights().requires_grad_()
    quantizer = GQ(weight, 2, learn_mu=learn_mu, learn_centroids=False)
    quantizer.hardness = Hardness(k)
    quantizer(weight).sum().backward()
    assert weight.grad is not None
    assert list(quantizer.parameters()) == ([quantizer.log_mu] if learn_mu else [])
    assert all(p.grad is not None for p in quantizer.parameters())
    assert "centroids" in quantizer.state_dict()
