"""What is particular to 32-bit ARM: its other cores, scalar code, subnormal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kernel_harness import device_for, run_linear, target

from gq_tvm.ops import reference
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Product, family

_LEAST = 2.0**-126  # normal float32


def case(activation: str, bits: int, rows: int = 3):
    n, k = 37, 45
    rng = np.random.default_rng([bits, rows])
    return (
        Product(n, k, bits, activation, rows),
        rng.standard_normal((rows, k)).astype(np.float32),
        rng.integers(0, 2**bits, (n, k)).astype(np.uint8),
        rng.standard_normal((1, 2**bits)).astype(np.float32),
        np.zeros(n, np.float32),
    )


def wanted(one):
    product, x, indices, codebook, bias = one
    return reference.codebook_linear(
        x, Weight.from_tables(indices, codebook, product.activation), bias, product.activation
    )


@pytest.mark.parametrize("where", ["arm32", "cortex-a9", "cortex-a53-aarch32"])
def test_every_core_computes_the_definition(where, emulated):
    where = target(where)
    cases = [case("int8", bits) for bits in (3, 6)]
    for one, got in zip(
        cases, run_linear(family("lookup"), where, device_for(where, emulated), cases), strict=True
    ):
        np.testing.assert_array_equal(got, wanted(one))


@pytest.mark.emulated
@pytest.mark.parametrize("activation", ["int8", "int2", "fp32"])
def test_scalar_code_computes_the_definition(activation, emulated):
    where = target("cortex-a7")
    one = case(activation, 2)
    (got,) = run_linear(family("scalar"), where, device_for(where, emulated), [one])
    np.testing.assert_allclose(got, wanted(one), rtol=1e-5, atol=1e-6)


@pytest.mark.emulated
def test_rows_with_subnormal_numbers_are_quantised_exactly(emulated):
    """127 / max is a scalar division, the products round to 0 with or without subnormal numbers."""
    where = target("cortex-a7")
    product, x, indices, codebook, bias = case("int8", 4)
    x[:, ::3] *= np.float32(_LEAST / 8)
    x[1, 1] = 3e38  # its reciprocal is nearly the smallest there is
    one = (product, x, indices, codebook, bias)
    (got,) = run_linear(family("lookup"), where, device_for(where, emulated), [one])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, wanted(one))


@pytest.mark.emulated
def test_subnormal_numbers_of_vectors_are_zero(emulated):
    """The bound: each of K products, each sum and the scaling lose less than 2^-126, scaled."""
    where = target("cortex-a7")
    product, x, indices, codebook, bias = case("fp32", 4)
    x *= np.float32(_LEAST)  # about half of them subnormal
    one = (product, x, indices, codebook, bias)
    (got,) = run_linear(family("lookup_f32"), where, device_for(where, emulated), [one])
    exact = x.astype(np.float64) @ codebook[0].astype(np.float64)[indices].T
    bound = _LEAST * product.k * (2 + np.abs(codebook).max())
    assert (np.abs(got - exact) <= bound).all()
    subnormal = (got != 0) & (np.abs(got) < _LEAST)
    assert not subnormal.any()
