"""``fit`` finds codebooks of small error, in what layers give where their inputs are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.ops.torch_weight import expand
from gq_tvm.quantize.fitting import Form, fit
from gq_tvm.quantize.fitting.metric import Metric

SCALES = ["tensor", "row", 16, 32]


def lost(weight, got, moments=None):
    """The root of the share of the outputs' power that is lost."""
    missed, weight = got.double() - weight, weight.double()
    h = torch.eye(weight.shape[1]).double() if moments is None else moments.double()
    return float((((missed @ h) * missed).sum() / ((weight @ h) * weight).sum()).sqrt())


def inputs_of(width, count=200, seed=0):
    """Inputs of unlike size that hang together."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, width, generator=generator)
    mixed = mixed @ torch.randn(width, width, generator=generator)
    return mixed * torch.logspace(-1, 1, width)


def rounded(weight, form):
    """The nearest of evenly spaced levels, with scales from maxima."""
    most = max(2 ** (form.bits - 1) - 1, 0.5)
    group = form.scales if isinstance(form.scales, int) else weight.shape[1]
    parts = []
    for part in weight.split(group, 1):
        size = weight.abs().amax() if form.scales == "tensor" else part.abs().amax(1, True)
        step = torch.where(size > 0, size / most, 1.0)
        steps = torch.where(part < 0, -0.5, 0.5) if form.bits == 1 else (part / step).round()
        parts.append(steps * step)
    return torch.cat(parts, 1)


@settings(max_examples=25)
@given(st.data())
def test_errs_less_than_rounding_and_with_moments_less_than_without(data):
    rows, columns = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 50))
    form = Form(
        data.draw(st.integers(1, 5)), data.draw(st.booleans()), data.draw(st.sampled_from(SCALES))
    )
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_t(3, (rows, columns))).float()
    inputs = inputs_of(columns, data.draw(st.sampled_from([3, 200])), seed)
    moments = inputs.T @ inputs
    plain, aware = fit(weight, form), fit(weight, form, moments)
    near = lost(weight, expand(plain.weight))
    assert near <= lost(weight, rounded(weight, form)) * (1 + 1e-3) + 5e-4
    own = moments.diagonal()
    damped = moments + (0.01 * own + 1e-5 * own.mean()).diag()
    before = lost(weight, expand(plain.weight), damped)
    assert lost(weight, expand(aware.weight), damped) <= before * (1 + 1e-3) + 5e-4
    assert plain.lost == pytest.approx(near, rel=1e-3, abs=1e-6)
    assert aware.lost == pytest.approx(
        lost(weight, expand(aware.weight), moments), rel=1e-3, abs=1e-5
    )


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("int8_grid", [False, True])
def test_few_distinct_values_are_kept(scales, int8_grid):
    values = torch.tensor([-0.7, 0.0, 3e-9]) if not int8_grid else torch.tensor([0.3, 0.5, -0.2])
    weight = values[torch.arange(150) % 3].view(3, 50) * 1e30
    for moments in (None, inputs_of(50).T @ inputs_of(50)):
        found = fit(weight, Form(2, int8_grid, scales), moments)
        torch.testing.assert_close(expand(found.weight), weight, rtol=3e-7, atol=0)
        assert found.lost < 1e-6


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("kind", ["zeros", "zero rows", "tiny", "huge", "outlier", "one", "thin"])
def test_weights_at_the_edges(scales, kind):
    torch.manual_seed(0)
    weight = torch.randn(1, 1) if kind == "one" else torch.randn(1 if kind == "thin" else 12, 40)
    weight *= {"zeros": 0.0, "tiny": 1e-24, "huge": 5e37}.get(kind, 1.0)
    if kind == "zero rows":
        weight[::2] = 0
    if kind == "outlier":
        weight[3, 7] = 1e6
    inputs = inputs_of(weight.shape[1], 3)
    for moments in (None, inputs.T @ inputs, inputs.T @ inputs * 1e-30):
        found = fit(weight, Form(4, True, scales), moments)
        got = expand(found.weight)
        assert found.weight.indices.shape == weight.shape
        assert torch.isfinite(got).all()
        if kind == "zero rows":
            assert (got[::2] == 0).all() or scales == "tensor"
        if kind == "outlier" and scales != "tensor":
            assert lost(weight[4:], got[4:]) < 0.5
        elif kind == "zeros":
            assert found.lost == 0
        else:
            assert found.lost < 0.3


def test_inputs_that_are_always_zero_leave_their_columns_near():
    torch.manual_seed(0)
    weight, inputs = torch.randn(8, 48), inputs_of(48)
    inputs[:, 10:20] = 0
    got = expand(fit(weight, Form(4, False, 16), inputs.T @ inputs).weight)
    assert lost(weight[:, 10:20], got[:, 10:20]) < 0.2


def test_rows_that_count_more_lose_less():
    torch.manual_seed(0)
    weight = torch.cat([torch.randn(8, 64), torch.randn(8, 64) * 4])
    rows = torch.ones(16)
    rows[:8] = 100
    even, uneven = (
        fit(weight, Form(2, False, "tensor")),
        fit(weight, Form(2, False, "tensor"), None, rows),
    )
    first, then = (lost(weight[:8], expand(one.weight)[:8]) for one in (even, uneven))
    assert then < 0.8 * first


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("aware", [False, True])
def test_outliers_are_kept_apart_where_they_pay(scales, aware):
    torch.manual_seed(0)
    weight, inputs = torch.randn(32, 64), torch.randn(200, 64)
    moments = inputs.T @ inputs if aware else None
    even = fit(weight.clamp(-2, 2), Form(4, True, scales, 0.005), moments)
    assert even.weight.positions is None or scales == "tensor"
    weight[3, 5], weight[17, 40], weight[17, 47] = 30.0, -50.0, 40.0
    without, found = (fit(weight, Form(4, True, scales, most), moments) for most in (0, 0.005))
    assert found.weight.positions is not None
    assert found.weight.values is not None
    positions, values = found.weight.positions, found.weight.values
    assert len(positions) <= 0.005 * weight.numel()
    assert {3 * 64 + 5, 17 * 64 + 40, 17 * 64 + 47} <= set(positions.tolist())
    assert values.dtype == torch.float16
    assert found.lost < 0.85 * without.lost
    assert found.lost == pytest.approx(lost(weight, expand(found.weight), moments), rel=1e-3)


@pytest.mark.parametrize("scales", ["row", 32])
def test_unasked_outliers_are_few_and_halve_the_error(scales):
    torch.manual_seed(0)
    weight = torch.randn(32, 64)
    weight[3, 5] = 4.0  # of 4 sigma: not worth it
    assert fit(weight, Form(4, True, scales, None)).weight.positions is None
    weight[3, 5], weight[17, 40], weight[17, 47], weight[20, 1] = 80.0, -90.0, 70.0, 85.0
    without, found = (fit(weight, Form(4, True, scales, most)) for most in (0, None))
    assert found.weight.positions is not None
    assert 1 <= len(found.weight.positions) <= 0.002 * weight.numel()
    assert found.lost**2 < 0.55 * without.lost**2


def test_a_tensor_with_one_scale_has_no_unasked_outliers():
    torch.manual_seed(0)
    weight = torch.randn(32, 64)
    weight[3, 5] = 80.0
    assert fit(weight, Form(4, True, "tensor", None)).weight.positions is None


def test_units_of_the_inputs_change_nothing():
    torch.manual_seed(0)
    inputs, units = torch.randn(200, 48), torch.logspace(-1, 1, 48)
    moments = (inputs.T @ inputs).double()
    plain, scaled = (
        Metric.of(one, None, torch.Size((4, 48)))
        for one in (moments, moments * torch.outer(units, units).double())
    )
    ratio = scaled.h / (plain.h * units.double() ** 2)
    torch.testing.assert_close(ratio, ratio.mean().expand(48), rtol=0.02, atol=0)


def test_gives_the_same_each_time():
    torch.manual_seed(0)
    weight, inputs = torch.randn(24, 70), inputs_of(70)
    one, other = (fit(weight, Form(3, True, 32), inputs.T @ inputs) for _ in range(2))
    for a, b in zip(one.weight, other.weight, strict=True):
        assert a is b or (a is not None and b is not None and torch.equal(a, b))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 0}, "fit: bits must be 1 to 8, got 0"),
        ({"scales": 8}, 'fit: scales must be "tensor", "row", 16, 32, 64 or 128, got 8'),
        ({"outliers": 0.1}, "fit: outliers must be 0 to 0.005, got 0.1"),
        ({"moments": torch.eye(3)}, r"fit: moments must have shape \[4, 4\], got \[3, 3\]"),
        ({"moments": torch.eye(4) * torch.nan}, "fit: moments hold NaN or infinity"),
        ({"moments": torch.ones(4, 4) * 2 - torch.eye(4)}, "fit: moments are no sum of squares"),
        ({"rows": torch.ones(3)}, r"fit: rows must have shape \[2\], got \[3\]"),
        ({"rows": -torch.ones(2)}, "fit: rows hold NaN, infinity or a negative number"),
    ],
)
def test_refuses_what_is_wrong(wrong, message):
    form = {"bits": 4, "int8_grid": True, "scales": "row"} | {
        k: v for k, v in wrong.items() if k in ("bits", "scales", "outliers")
    }
    with pytest.raises(Error, match=message):
        fit(torch.ones(2, 4), Form(**form), wrong.get("moments"), wrong.get("rows"))
