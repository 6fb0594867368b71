"""What GQ can be asked for: a mu that learns, centroids that do not, where they start, grids."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from helpers.small_recogniser import inputs, recogniser, train
from torch import nn

import gq_tvm.quantize
from gq_tvm.ops import rounding
from gq_tvm.quantize.quantisers.lloyd_max import cell_midpoints

quantize: Any = gq_tvm.quantize  # untyped, as layers change their class on the way


def same(got, wanted):
    for g, w in zip(got, wanted, strict=True):
        assert torch.equal(g, w)


def gq(model):
    return [m for m in model.modules() if hasattr(m, "centroids")]


@pytest.mark.parametrize("activation", ["fp32", "int8"])
@pytest.mark.parametrize("bits", [1, 5])
def test_mu_learns_in_both_modes(bits, activation):
    model = quantize.prepare(recogniser(), bits, activation=activation, mu=63.0, learn_mu=True)
    weights = {w.name for w in quantize.describe(model) if not w.shared}
    learned = quantize.centroid_parameters(model)
    assert len(learned) == 2 * len(weights)
    annealing = quantize.Annealing(model, 6)
    seen = [math.log(63)] * len(weights)
    for _ in range(2):  # 4 soft steps, 2 hard ones
        train(model, 4 if not annealing.hard else 2, annealing)
        mus = [float(q.log_mu.detach()) for q in gq(model)]
        assert all(new != old for new, old in zip(mus, seen, strict=True))
        seen = mus
    assert annealing.hard
    same(quantize.convert(model)(*inputs()), model.eval()(*inputs()))


def test_a_mu_that_learns_comes_back_from_a_state():
    model = quantize.prepare(recogniser(), 3, learn_mu=True)
    train(model, 3, quantize.Annealing(model, 4))
    again = quantize.prepare(recogniser(seed=1), 3, learn_mu=True)
    again.eval()(*inputs())  # what it keeps for eval must not outlive the load
    again.load_state_dict(model.state_dict())
    assert [q.mu.item() for q in gq(again)] == [q.mu.item() for q in gq(model)]
    same(again(*inputs()), model.eval()(*inputs()))


def test_until_it_learns_mu_changes_nothing():
    outputs = []
    for learn_mu in (False, True):
        # With 2 bits no weight is alone in its cell, on its centroid, where soft values jump.
        model = quantize.prepare(recogniser(), 2, learn_mu=learn_mu)
        hard = model(*inputs())
        quantize.Annealing(model, 10)
        outputs.append([*hard, *model(*inputs())])
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def test_fixed_centroids_stay():
    model = quantize.prepare(recogniser(), 2, learn_centroids=False)
    assert quantize.centroid_parameters(model) == []
    before = [q.centroids.clone() for q in gq(model)]
    weights = copy.deepcopy(list(model.parameters()))
    train(model, 4, quantize.Annealing(model, 4))
    same([q.centroids for q in gq(model)], before)
    assert all(not torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    other = quantize.prepare(recogniser(seed=1), 2, learn_centroids=False).eval()
    other(*inputs())
    other.load_state_dict(model.state_dict())
    same(other(*inputs()), model.eval()(*inputs()))


@pytest.mark.parametrize("mu", [0.0, 255.0])
@pytest.mark.parametrize("bits", [1, 4])
def test_uniform_start(bits, mu):
    model = quantize.prepare(nn.Linear(20, 30), bits, start="uniform", mu=mu)
    wanted = cell_midpoints(2**bits).float()
    assert torch.equal(model.quantizers["weight"].centroids.detach(), wanted)
    largest = model.weight.detach().abs().max()
    _, codebook, scale, _ = model.hardened("weight").coded
    assert (scale * codebook.abs() < largest).all()  # 1 bit does not start at the extremes


@pytest.mark.parametrize("method", ["gq", "lsq"])
@pytest.mark.parametrize("activation", ["fp32", "int8"])
@pytest.mark.parametrize("int8_grid", [None, False, True])
def test_grids_can_be_forced(method, activation, int8_grid):
    torch.manual_seed(0)
    model = quantize.prepare(
        nn.Linear(40, 30), 5, activation=activation, method=method, int8_grid=int8_grid
    )
    codebook = model.hardened("weight").codebook.numpy()
    grid, scale = rounding.quantize_codebook(codebook)
    off_grid = abs(codebook / scale - grid).max()
    on_grid = int8_grid if int8_grid is not None else activation != "fp32"
    assert (off_grid < 1e-4) == on_grid
    x = torch.randn(3, 40)
    same([quantize.convert(model)(x)], [model.eval()(x)])


def test_a_quantiser_applied_now_and_then_is_always_applied_once_hard():
    model = quantize.prepare(recogniser(), 2, activation="fp32")
    annealing = quantize.Annealing(model, 12, hard=0.5, every=4)
    weight, quantizer = model.front.weight, model.front.quantizers["weight"]
    applied = []
    for _ in range(12):
        applied.append(not torch.equal(quantizer(weight), weight))
        annealing.step()
    assert applied == [n % 4 == 0 for n in range(6)] + [True] * 6
    quantize.Annealing(model, 12, hard=1.0, every=4)
    assert quantizer(weight).unique().numel() == 4
