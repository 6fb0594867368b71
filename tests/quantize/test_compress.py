"""``compress`` without inputs gives what it promises: the least squared error, as deployed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gq_tvm.quantize
from gq_tvm.errors import Error
from gq_tvm.quantize.fitting import Form, fit
from gq_tvm.quantize.quantisers.int8_grid import on_grid
from gq_tvm.quantize.quantisers.lloyd_max import Line

quantize: Any = gq_tvm.quantize

pytestmark = pytest.mark.filterwarnings("ignore:compress. .* of their norm:UserWarning")


def lumps(kind, count=600):
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(count)
    if kind == "sparse":
        return np.where(rng.random(count) < 0.1, normal, 0)
    if kind == "outliers":
        return np.concatenate([normal[:-3], [1e3, 1.1e3, -1e6]])
    if kind == "clusters":
        return rng.choice(rng.standard_normal(40), count) + 1e-3 * normal
    return {"normal": normal, "Cauchy": rng.standard_cauchy(count), "wide": np.exp(4 * normal)}[
        kind
    ]


def least_errors(values, most):
    """The least error of 1 to ``most`` cells: over all ends of all cells."""
    x = np.sort(values)
    first, second = (np.concatenate([[0], np.cumsum(x**p, dtype=np.longdouble)]) for p in (1, 2))
    i, j = np.triu_indices(len(x) + 1, 1)
    cost = np.full((len(x) + 1, len(x) + 1), np.inf)
    cost[j, i] = np.maximum(second[j] - second[i] - (first[j] - first[i]) ** 2 / (j - i), 0)
    error = cost[:, 0]
    yield error[-1]
    for _ in range(most - 1):
        error = (cost + error).min(1)
        yield error[-1]


@pytest.mark.parametrize("kind", ["normal", "Cauchy", "wide", "sparse", "outliers", "clusters"])
def test_centroids_err_hardly_more_than_any_could(kind):
    values = lumps(kind)
    line = Line(values)
    least = list(least_errors(values, 128))
    for bits in range(1, 8):
        centroids = line.centroids(2**bits)
        error = ((values - centroids[np.abs(values[:, None] - centroids).argmin(1)]) ** 2).sum()
        assert error <= 1.05 * least[2**bits - 1] + 1e-12 * least[0]
        assert line.error(centroids) == pytest.approx(error, rel=1e-6, abs=1e-12 * least[0])


def deployed(layer, name="weight"):
    """The float weight that a kernel multiplies by."""
    weight = layer.codebook_weight(name).numpy()
    if layer.activation != "fp32":
        grid, scale, *_ = weight.on_grid()
        scale = scale if scale.shape[1] > 1 else scale[:, 0]
        weight = replace(weight, codebook=grid.astype(np.float32), scale=scale)
    return torch.from_numpy(weight.expand())


def compressed(weight, bits, activation="fp32", scales=None):
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    model.weight.data = weight
    return deployed(quantize.compress(model, bits, activation=activation, scales=scales))


def loss(got, weight):
    return float((got.double() - weight).norm() / weight.double().norm())


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.conv = nn.Conv1d(2, 3, 5)
        self.depthwise = nn.Conv1d(4, 4, 5, groups=4)
        self.embedding = nn.Embedding(6, 3)
        self.lstm = nn.LSTM(3, 4, 2)
        self.gru = nn.GRU(3, 4)
        self.attention = nn.MultiheadAttention(4, 2)


@pytest.mark.parametrize("scales", [None, "tensor", "row"])
@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_weights_of_one_value_keep_it(activation, scales):
    for bits, value in [(1, 0.2), (4, -3e37), (8, 0.0)]:
        model = Everything()
        for parameter in model.parameters():
            nn.init.constant_(parameter, value)
        model = quantize.compress(model, bits, None, activation, scales=scales)
        assert all(w.bits == bits for w in quantize.describe(model))
        for layer in model.modules():
            for name in getattr(layer, "weight_names", list)():
                got = deployed(layer, name)
                torch.testing.assert_close(got, torch.full_like(got, value), rtol=3e-7, atol=0)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(
        st.floats(-(2.0**60), 2.0**60, width=32).filter(lambda x: x == 0 or abs(x) > 2**-60),
        min_size=1,
        max_size=16,
        unique=True,
    ),
    st.sampled_from(["tensor", "row", 16]),
)
def test_as_many_values_as_levels_keep_them(bits, values, scales):
    values = values[: 2**bits]
    weight = torch.tensor(values * 3)[torch.randperm(3 * len(values))].view(3, -1)
    got = compressed(weight, bits, scales=scales)
    torch.testing.assert_close(got, weight, rtol=3e-7, atol=0)


def test_on_int8_grids_a_level_to_spare_sets_the_step():
    weight = torch.tensor([[0.3, 0.5, -0.2], [0.5, 0.3, 0.3]])
    torch.testing.assert_close(compressed(weight, 2, "int8", "tensor"), weight, rtol=3e-7, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["normal", "Cauchy", "outliers", "sparse"])
def test_the_grid_has_the_step_that_errs_least(bits, kind):
    values = lumps(kind)
    line = Line(values)
    centroids = line.centroids(2**bits)
    found = on_grid(line, centroids, 2**bits)
    assert np.abs(found.numbers).max() == 127
    assert len(found.numbers) <= 2**bits
    assert found.error == pytest.approx(line.error(found.step * found.numbers))
    for step in np.geomspace(1e-3, 1, 150) * np.abs(values).max() / 127:
        if bits == 8:
            numbers = np.arange(-127.0, 128)
        else:
            numbers = np.unique(np.clip(np.rint(centroids / step), -127, 127))
        assert found.error <= 1.02 * line.error(step * numbers)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_outlier_costs_its_own_row_at_most(bits):
    torch.manual_seed(0)
    weight = torch.randn(64, 64) * 0.05
    weight[3, 5] = 50.0
    got = compressed(weight, bits, "int8")
    others = torch.arange(64) != 3
    assert loss(got[others], weight[others]) < (0.2 if bits == 4 else 0.02)
    assert abs(got[3, 5] - 50) < 0.1
    unequal = torch.randn(64, 64) * torch.logspace(-3, 1, 64)[:, None]
    got = compressed(unequal, bits, "int8")
    assert ((got - unequal).norm(dim=1) / unequal.norm(dim=1)).mean() < (0.2 if bits == 4 else 0.02)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_scales_of_rows_never_err_more_than_one_codebook(data):
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    bits = data.draw(st.integers(1, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    weight = (
        rng.standard_cauchy((rows, columns))
        if data.draw(st.booleans())
        else (rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-8, 8, (rows, 1)))
    )
    weight[rng.random(weight.shape) < data.draw(st.sampled_from([0, 0.7, 1]))] = 0
    wanted = torch.from_numpy(weight).float()
    for activation in ("fp32", "int8"):
        tensor, by_row = (
            (compressed(wanted, bits, activation, scales).double() - wanted).norm()
            for scales in ("tensor", "row")
        )
        assert by_row <= tensor * (1 + 1e-6) + 1e-6 * wanted.norm()


@pytest.mark.parametrize("scales", ["tensor", "row"])
def test_an_outlier_leaves_the_rest_of_its_row_alone_in_floats(scales):
    torch.manual_seed(0)
    weight = torch.randn(32, 300)
    weight[4, 7] = 1e6
    got = compressed(weight, 4, scales=scales)
    weight[4, 7] = got[4, 7] = 0
    assert loss(got, weight) < 0.15


def test_what_is_said_to_be_lost_is_lost():
    torch.manual_seed(0)
    weight = torch.randn(20, 60) * torch.linspace(0.1, 2, 20)[:, None]
    for bits in (2, 8):
        forms: list[tuple[bool, str | int]] = [(False, "row"), (True, 16), (True, "row")]
        for grid, scales in forms:
            found = fit(weight, Form(bits, grid, scales))
            assert (found.weight.codebook.diff() >= 0).all()
            got = compressed(weight, bits, "int8" if grid else "fp32", scales)
            assert loss(got, weight) == pytest.approx(found.lost, rel=1e-4)


def test_much_loss_is_said_once_with_what_to_do():
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    nn.init.normal_(model[0].weight)
    model[1].weight.data[:2, 0] = torch.tensor([30.0, 10.0])
    with pytest.warns(UserWarning, match=r"2 of 3 weights lose more than 10%") as said:
        quantize.compress(model, 8, {"0": 3}, scales="tensor")
    (text,) = [str(w.message) for w in said]
    assert "1.weight" in text
    assert "0.weight 18% (3 bits)" in text
    assert 'give inputs, more bits, scales=32, activation "fp32", training' in text
    with pytest.warns(UserWarning, match=r"give inputs, more bits, training \(quantize.prepare\)"):
        quantize.compress(model, 2, activation="fp32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize.compress(model, 8)


def test_scales_are_chosen_by_pattern():
    model: Any = nn.Sequential(nn.Linear(64, 6), nn.Linear(6, 40), nn.Linear(40, 6))
    held = quantize.compress(model, 4, scales={"*": "row", "2": 16})
    shapes = [tuple(held[n].weight_scale.shape) for n in range(3)]
    assert shapes == [(6,), (40,), (6, 3)]
    held = quantize.compress(model, 4)
    assert [tuple(held[n].weight_scale.shape) for n in range(3)] == [(6, 2), (40,), (6, 2)]
    held = quantize.compress(model, 1, activation={"0": "int1"})
    assert [tuple(held[n].weight_scale.shape) for n in range(3)] == [(6,), (40,), (6,)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 9}, "^compress: bits must be 1 to 8, None or 32, got 9"),
        ({"bits": True}, "^compress: bits must be 1 to 8, None or 32, got True"),
        ({"overrides": {0: 2}}, '^compress: overrides: a pattern must be a string, such as "0"'),
        ({"overrides": ["0"]}, "^compress: overrides must be a dictionary by pattern"),
        ({"activation": {1: "int8"}}, "^compress: activation: a pattern must be a string"),
        ({"activation": None}, '^compress: activation must be "fp32", "int8", "int2" or "int1"'),
        ({"scales": "yes"}, '^compress: scales must be "tensor", "row", or one for 16, 32'),
        ({"scales": {"1": 32}}, "^compress: pattern '1' matches no weight or module"),
        ({"outliers": 0.1}, "^compress: outliers must be 0 to 0.005"),
        ({"outliers": "few"}, "^compress: outliers must be a number, got 'few'"),
    ],
)
def test_refusals_name_compress(options, message):
    with pytest.raises(Error, match=message):
        quantize.compress(nn.Sequential(nn.Linear(4, 4)), **options)
