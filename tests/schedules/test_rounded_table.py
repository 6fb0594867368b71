"""The family whose sums are rounded: as its own definition says, and off by a percent."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kernel_harness import SHAPES, device_for, run_linear, target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gq_tvm.ops import reference
from gq_tvm.ops.weight import Weight
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.schedules import Product, families_for, family


def case(shape, bits, symbolic, seed=0):
    n, k, rows = shape
    rng = np.random.default_rng([n, k, rows, bits, seed])
    return (
        Product(n, k, bits, "fp32", None if symbolic else rows),
        rng.standard_normal((rows, k)).astype(np.float32),
        rng.integers(0, 2**bits, (n, k)).astype(np.uint8),
        rng.standard_normal((1, 2**bits)).astype(np.float32),
        np.zeros(n, np.float32),
    )


def assert_as_defined(cases, results):
    for (_, x, indices, codebook, _), got in zip(cases, results, strict=True):
        want = reference.rounded_table_linear(x, Weight(indices, codebook, np.ones(1, np.float32)))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max(initial=0))


@pytest.mark.parametrize("bits", [1, 2])
def test_as_defined(bits, emulated):
    where = target("x86-64-v4")
    cases = [case(shape, bits, i % 2 == 1) for i, shape in enumerate(SHAPES)]
    device = device_for(where, emulated)
    assert_as_defined(cases, run_linear(family("table8"), where, device, cases))


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 150), k=st.integers(1, 200), rows=st.integers(1, 20), bits=st.integers(1, 2)
)
def test_any_shape(n, k, rows, bits):
    where = target("x86-64-v4")
    cases = [case((n, k, rows), bits, symbolic=False)]
    results = run_linear(family("table8"), where, device_for(where, LocalDevice), cases)
    assert_as_defined(cases, results)


def test_rows_that_are_zero_or_not_finite(emulated):
    where = target("x86-64-v4")
    one = case((37, 70, 5), 2, symbolic=False)
    x = one[1]
    x[0] = 0
    x[1] = 2.0**-110
    x[2, 69] = np.nan
    x[3, 3] = np.inf
    (got,) = run_linear(family("table8"), where, device_for(where, emulated), [one])
    assert not got[:2].any()
    assert np.isnan(got[2:4]).all()
    assert_as_defined([(*one[:1], x[4:], *one[2:])], [got[4:]])


@pytest.mark.parametrize("bits", [1, 2])
def test_the_error_is_about_a_percent(bits):
    """On Gaussian data with the codebook Lloyd and Max give it."""
    rng = np.random.default_rng(bits)
    centroids = {1: [-0.798, 0.798], 2: [-1.51, -0.453, 0.453, 1.51]}[bits]
    codebook = np.array([centroids], np.float32)
    weight = rng.standard_normal((64, 1024))
    indices = np.abs(weight[..., None] - codebook).argmin(-1).astype(np.uint8)
    x = rng.standard_normal((16, 1024)).astype(np.float32)
    exact = x.astype(np.float64) @ codebook[0][indices].T
    got = reference.rounded_table_linear(x, Weight(indices, codebook, np.ones(1, np.float32)))
    assert np.linalg.norm(got - exact) < 0.01 * np.linalg.norm(exact)


def test_never_chosen_unless_asked_for():
    names = [one.name for one in families_for(target("x86-64-v4"), Product(64, 64, 2, "fp32", 1))]
    assert names.index("table8") > names.index("scalar")
