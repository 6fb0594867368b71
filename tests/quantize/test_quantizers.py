"""The quantisers of one weight: gradients, limits, starts, grids."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.ops import rounding
from gq_tvm.ops.torch_weight import expand
from gq_tvm.quantize.quantisers import mulaw
from gq_tvm.quantize.quantisers.bucketize import Buckets
from gq_tvm.quantize.quantisers.gq import GQ
from gq_tvm.quantize.quantisers.lloyd_max import cell_midpoints, lloyd_max
from gq_tvm.quantize.quantisers.quantizer import Hardness, SnapToInt8, check_finite
from gq_tvm.quantize.quantisers.uniform import LearnedStep, Uniform, symmetric_levels
from gq_tvm.quantize.training_layers.activation import fake_quantize_rows

BITS = range(1, 9)


def gaussian(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.1


@pytest.mark.parametrize("mu", [0.0, 63.0, 255.0])
def test_mulaw(mu):
    x = torch.arange(-50, 51, dtype=torch.float64) / 50
    y = mulaw.compress(x, mu)
    torch.testing.assert_close(mulaw.expand(y, mu), x)
    torch.testing.assert_close(y, -y.flip(0))
    torch.testing.assert_close(y[[0, 50, 100]], x[[0, 50, 100]])


@settings(max_examples=200, deadline=None)
@given(
    bounds=st.lists(st.floats(-2, 2, width=32), max_size=40),
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
)
def test_buckets_are_torchs(bounds, values):
    bounds = torch.tensor(sorted(bounds), dtype=torch.float32)
    values = torch.cat([torch.tensor(values), bounds, bounds.nextafter(torch.tensor(9.0))])
    wanted = torch.bucketize(values, bounds, out_int32=True)
    assert torch.equal(Buckets(bounds)(values), wanted)


@pytest.mark.parametrize("bits", BITS)
def test_buckets_of_weights(bits):
    values = gaussian(100, 37).t()
    bounds = lloyd_max(values, 2**bits).float()
    wanted = torch.bucketize(values.contiguous(), bounds, out_int32=True)
    assert torch.equal(Buckets(bounds)(values), wanted)


@pytest.mark.parametrize("bits", BITS)
def test_lloyd_max_is_stationary_and_beats_a_uniform_grid(bits):
    values = gaussian(4000, dtype=torch.float64)
    centroids = lloyd_max(values, 2**bits)
    assert (centroids.diff() > 0).all()
    cell = torch.bucketize(values, (centroids[1:] + centroids[:-1]) / 2)
    means = torch.stack([values[cell == j].mean() for j in range(2**bits)])
    if bits <= 5:  # with more cells it stops before the last digits settle
        torch.testing.assert_close(means, centroids, atol=1e-4, rtol=0)
    error = (values - centroids[cell]).square().mean()
    grid = cell_midpoints(2**bits) * values.abs().max()
    uniform = (values[:, None] - grid).abs().amin(1).square().mean()
    assert error < uniform


def test_lloyd_max_of_a_gaussian_is_maxs_table():
    # Max 1960, table I: one and two bits of a unit normal.
    values = torch.erfinv(torch.linspace(-1, 1, 200003, dtype=torch.float64)[1:-1]) * math.sqrt(2)
    one = torch.tensor([-0.7980, 0.7980], dtype=torch.float64)
    two = torch.tensor([-1.510, -0.4528, 0.4528, 1.510], dtype=torch.float64)
    torch.testing.assert_close(lloyd_max(values, 2), one, atol=1e-3, rtol=0)
    torch.testing.assert_close(lloyd_max(values, 4), two, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], [-0.75, -0.25, 0.25, 0.75]),
        ([0.0] * 5, [-0.75, 0.0, 0.25, 0.75]),
        ([0.2] * 3, [-0.75, -0.25, 0.2, 0.75]),
        ([0.0, 1.0, 1.0], [-0.75, 0.0, 0.25, 1.0]),
    ],
)
def test_levels_without_a_value_start_from_the_midpoints_of_cells(values, wanted):
    assert lloyd_max(torch.tensor(values, dtype=torch.float64), 4).tolist() == wanted


@pytest.mark.parametrize("bits", BITS)
def test_soft_is_the_softmax_over_the_nearest_two(bits):
    weight = gaussian(30, 7, dtype=torch.float64)
    quantizer = GQ(weight, bits, mu=255.0)
    quantizer.centroids.data = cell_midpoints(2**bits) * 0.9
    k = 3.0
    quantizer.hardness = Hardness(k)
    values = mulaw.expand(quantizer.centroids.detach(), 255.0)
    scale = weight.abs().max()
    # Beyond the outermost centroid the distances to both differ by all of the spacing.
    ratio = (weight / scale).flatten()
    far, near = (ratio[:, None] - values).abs().sort(-1).values[:, :2].unbind(-1)[::-1]
    nearest = (ratio[:, None] - values).abs().argsort(-1)[:, :2]
    pair = values[nearest]
    alpha = k / (pair[:, 0] - pair[:, 1]).abs()
    share = torch.softmax(-alpha[:, None] * torch.stack([near, far], -1), -1)
    inside = (ratio >= values[0]) & (ratio <= values[-1])
    # The nearest two lie on either side of a weight only where spacing is even.
    around = (pair[:, 0] - ratio) * (pair[:, 1] - ratio) <= 0
    checked = around | ~inside
    assert checked.sum() > len(ratio) / 2
    wanted = scale * (share * pair).sum(-1)
    torch.testing.assert_close(
        quantizer(weight).flatten()[checked], wanted[checked], atol=1e-9, rtol=1e-9
    )


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("mu", [0.0, 255.0])
def test_the_nearest_centroid_is_that_of_the_weight_itself(bits, mu):
    weight = gaussian(30, 20)
    quantizer = GQ(weight, bits, mu=mu)
    indices, codebook, scale, _ = quantizer.harden(weight).coded
    assert scale is not None
    distance = (weight[..., None] - scale * codebook[0]).abs()
    torch.testing.assert_close(
        distance.gather(-1, indices.long()[..., None])[..., 0], distance.amin(-1)
    )


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("per_row", [False, True])
def test_soft_becomes_hard(bits, per_row):
    weight = gaussian(64, 32)
    quantizer = GQ(weight, bits, per_row=per_row)
    hard = quantizer(weight)
    gaps = []
    for k in (8, 16, 32, 64, 1e6):
        quantizer.hardness = Hardness(float(k))
        gaps.append((quantizer(weight) - hard).abs().mean().item())
    # About inversely with K (0.7 leaves room for chance), and to nothing.
    for wide, narrow in pairwise(gaps[:4]):
        assert narrow < 0.7 * wide
    assert gaps[-1] < 1e-3 * (weight - hard).abs().mean().item() + 1e-9


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("int8_grid", [False, True])
@pytest.mark.parametrize("kind", [GQ, LearnedStep, Uniform])
def test_hard_values_are_the_deployed_ones(kind, bits, per_row, int8_grid):
    weight = gaussian(24, 3, 5)
    weight[3] = 0
    quantizer = kind(weight, bits, int8_grid, per_row)
    held = quantizer.harden(weight)
    held.check("weight", ndim=3)
    assert held.codebook.shape == (1, 2**bits)
    assert held.scale is not None
    assert held.scale.shape == (24 if per_row else 1,)
    assert torch.equal(quantizer(weight), expand(held))
    if int8_grid:
        grid, scale = rounding.quantize_codebook(held.codebook.numpy())
        np.testing.assert_allclose(grid * scale[:, None], held.codebook.numpy(), rtol=1e-6)
    if kind is GQ:
        c = mulaw.expand(quantizer.centroids, quantizer.mu)
        assert (c.diff() >= 0).all()


@pytest.mark.parametrize("int8_grid", [False, True])
def test_one_bit_does_not_collapse_to_the_extremes(int8_grid):
    weight = gaussian(128, 64)
    for mu in (0.0, 63.0, 255.0):
        _, codebook, scale, _ = GQ(weight, 1, int8_grid, mu=mu).harden(weight).coded
        assert scale is not None
        size = scale * codebook.abs()
        assert (size < 0.5 * weight.abs().max()).all()
        assert (size > 0.2 * weight.abs().mean()).all()
        assert codebook[0, 0] < 0 < codebook[0, 1]


def test_centroids_learn_past_one_another_and_stay_in_order():
    weight = gaussian(32, 32)
    quantizer = GQ(weight, 2)
    quantizer.centroids.data = torch.tensor([0.5, -0.5, 0.1, -0.1])
    for k in (10.0, math.inf):
        quantizer.hardness = Hardness(k)
        values = quantizer(weight)
        order = weight.flatten().argsort()
        assert (values.flatten()[order].diff() >= -1e-6).all()  # monotone in the weight
    codebook = quantizer.harden(weight).codebook
    assert (codebook.diff() > 0).all()


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("size", [0.0, 1e-42])
def test_weights_of_next_to_nothing(per_row, bits, size):
    weight = torch.zeros(4, 4)
    weight[0, 0] = size
    weight.requires_grad_()
    quantizer = GQ(weight, bits, True, per_row)
    for k in (5.0, math.inf):
        quantizer.hardness = Hardness(k)
        value = quantizer(weight)
        assert value.abs().max() <= size
        for grad in torch.autograd.grad(value.sum(), (weight, quantizer.centroids)):
            assert torch.isfinite(grad).all()


def test_a_diverged_weight_is_refused():
    with pytest.raises(Error, match="encoder: the weight holds NaN or infinity"):
        check_finite("encoder", torch.tensor([1.0, torch.nan]))


def test_snap():
    values = torch.tensor([-0.3, 0.1, 0.77], requires_grad=True)
    snapped = SnapToInt8.apply(values)
    torch.testing.assert_close(snapped, torch.tensor([-49.0, 16, 127]) * (0.77 / 127))
    assert torch.equal(torch.autograd.grad(snapped.sum(), values)[0], torch.ones(3))
    assert not SnapToInt8.apply(torch.zeros(2)).any()


@settings(max_examples=200, deadline=None)
@given(
    largest=st.floats(2.0**-99, 2.0**60, width=32),
    step=st.integers(0, 126),
    near=st.integers(-3, 3),
)
def test_snap_takes_the_step_that_deployment_takes(largest, step, near):
    # Values about halfway between two steps, where a factor in its last bit decides.
    halfway = np.float32((step + 0.5) * (largest / 127)).view(np.int32) + np.int32(near)
    values = np.array([[halfway.view(np.float32), largest]], np.float32)
    grid, scale = rounding.quantize_codebook(values)
    snapped = SnapToInt8.apply(torch.from_numpy(values[0]))
    np.testing.assert_array_equal(snapped.numpy(), grid[0] * scale)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_fake_rows_are_the_references(values):
    x = torch.tensor([values], requires_grad=True)
    q, scale = rounding.quantize_rows(x.detach().numpy())
    y = fake_quantize_rows(x, "int8")
    np.testing.assert_array_equal(y.detach().numpy(), q * scale[:, None])
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))


@pytest.mark.parametrize("activation", ["int1", "int2"])
def test_fake_rows_of_few_bits(activation):
    x = gaussian(20, 30).requires_grad_()
    x.data[0] = 0
    q, scale = rounding.ROW_QUANTIZERS[activation](x.detach().numpy())
    y = fake_quantize_rows(x, activation)
    np.testing.assert_array_equal(y.detach().numpy(), q * scale[:, None])
    grad = gaussian(20, 30, seed=1)
    got = torch.autograd.grad(y, x, grad)[0]
    # Straight through wherever the levels reach: rounding moves no such element by over a step.
    moved = (x - y).detach().abs() <= torch.from_numpy(scale)[:, None] * (1 + 1e-6)
    torch.testing.assert_close(got, grad * moved)
    assert 0.85 < moved[1:].float().mean() < 0.98


@pytest.mark.parametrize("bits", BITS)
def test_learned_step_has_lsqs_gradient(bits):
    weight = gaussian(40, 5, dtype=torch.float64).requires_grad_()
    quantizer = LearnedStep(weight, bits)
    quantizer.double()
    grad = gaussian(40, 5, seed=1, dtype=torch.float64)
    by_weight, by_learned = torch.autograd.grad(
        quantizer(weight), (weight, quantizer.log_step), grad
    )
    levels = symmetric_levels(bits).double()
    step = quantizer.step(weight).detach()
    ratio = weight.detach() / step
    nearest = levels[(ratio[..., None] - levels).abs().argmin(-1)]
    inside = (ratio >= levels[0]) & (ratio <= levels[-1])
    by_step = torch.where(inside, nearest - ratio, nearest)
    gradient_scale = 1 / math.sqrt(weight.numel() * max(float(levels[-1]), 1))
    wanted = (grad * by_step).sum() * gradient_scale * step  # by its logarithm
    torch.testing.assert_close(by_learned.squeeze(), wanted.squeeze())
    torch.testing.assert_close(by_weight, grad * inside)
