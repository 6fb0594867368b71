from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from helpers.kernel_harness import (
    SHAPES,
    TARGETS,
    VECTOR_TARGETS,
    XNOR,
    device_for,
    run_linear,
    target,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gq_tvm.ops import reference
from gq_tvm.ops.weight import Weight
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.schedules import Choice, Product, Schedule, families_for, family
from gq_tvm.schedules.cpu.engines.xnor import walsh_hadamard
from gq_tvm.schedules.family import MOST_INT8_K

pytestmark = pytest.mark.slow  # together minutes; test_recurrent has a quick one

ACTIVATIONS = ("int1", "int2")
#: Ragged everywhere; rows longer than the 31 words that byte counters hold.
FEW = ((37, 45, 5), (19, 1100, 1))
SCHEDULES = (
    Schedule(vectors=1, rows=1),
    Schedule(vectors=8, rows=3, unroll=3),
    Schedule(vectors=2, rows=4, block=4, unroll=2),
)


def case(shape, bits, activation, symbolic=False, mirrored=False, seed=0):
    """No bias, so that there is nothing to fuse and results are the same bit for bit."""
    n, k, rows = shape
    rng = np.random.default_rng([n, k, rows, bits, seed])
    codebook = rng.integers(-127, 128, (1, 2**bits)).astype(np.float32)
    codebook[0, -1] = 127
    if mirrored:
        half = codebook[:, 2 ** (bits - 1) :]
        codebook = np.concatenate([half, -half], axis=1)  # no order of size
    x = rng.standard_normal((rows, k)).astype(np.float32)
    indices = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
    if rows:
        x[-1] = np.abs(x[-1])
        indices[0] = codebook[0].argmax()  # the largest sums there are
    product = Product(n, k, bits, activation, None if symbolic else rows)
    return product, x, indices, codebook, np.zeros(n, np.float32)


def expected(case):
    product, x, indices, codebook, bias = case
    return reference.codebook_linear(
        x, Weight.from_tables(indices, codebook, product.activation), bias, product.activation
    )


def check(chosen, where, device, cases, **options):
    results = run_linear(chosen, where, device, cases, **options)
    for one, got in zip(cases, results, strict=True):
        np.testing.assert_array_equal(got, expected(one), err_msg=str(one[0]))


@pytest.mark.parametrize(
    "table",
    [
        *product((-127, 0, 1, 127), repeat=2),
        *product((-127, -1, 0, 127), repeat=4),
        *np.random.default_rng(0).integers(-127, 128, (50, 4)).tolist(),
    ],
    ids=str,
)
def test_a_codebook_is_a_sum_of_signs(table):
    coefficients = walsh_hadamard(np.array(table, np.int8))
    for index, centroid in enumerate(table):
        signs = [(-1) ** bin(p & index).count("1") for p in range(len(table))]
        assert coefficients @ signs == len(table) * centroid
    assert np.abs(coefficients).sum() <= 8 * 127


def test_mirrored_pairs_need_no_product_of_planes():
    for a, b, middle in product((0, 3, 60), (1, 5, 60), (-7, 0, 4)):
        table = np.sort(np.array([a, -a, b, -b], np.int8) + np.int8(middle))
        assert walsh_hadamard(table)[3] == 0


@pytest.mark.parametrize(("where", "name"), XNOR)
def test_exact(where, name, emulated):
    """Each shape with two of the four pairs of bits and activations, in turn."""
    where = target(where)
    cases = [
        case(shape, bits, ACTIVATIONS[(i + bits) % 2], symbolic=i % 2 == 0, mirrored=bits == 2)
        for i, shape in enumerate((*FEW, *SHAPES))
        for bits in (1, 2)
    ]
    check(family(name), where, device_for(where, emulated), cases)


@pytest.mark.parametrize("where", ["native", "x86-64"])
def test_other_bits_have_the_scalar_family(where, emulated):
    where = target(where)
    cases = [case((7, 13, 3), bits, one) for bits in (3, 8) for one in ACTIVATIONS]
    product = cases[0][0]
    exact = [one.name for one in families_for(where, product) if one.exact(product)]
    assert exact == ["scalar"]
    check(family("scalar"), where, device_for(where, emulated), cases)


@pytest.mark.parametrize(
    ("where", "schedule"),
    [
        # The loops are the same on all targets: every one has one of the schedules.
        *((where, SCHEDULES[i % 3]) for i, where in enumerate(VECTOR_TARGETS)),
        *(("x86-64-v4", one) for one in SCHEDULES[1:]),
        ("x86-64-v3", SCHEDULES[2]),
    ],
    ids=str,
)
def test_every_schedule_computes_the_same(where, schedule, emulated):
    where = target(where)
    cases = [case((50, 300, 6), 2, "int2"), case((33, 1100, 1), 2, "int2", mirrored=True)]
    check(family("xnor"), where, device_for(where, emulated), cases, schedule=schedule)


def test_threads_compute_the_same(emulated):
    where = target("x86-64-v3")
    cases = [case((200, 70, 5), bits, "int2") for bits in (1, 2)]
    check(family("xnor"), where, device_for(where, emulated), cases, parallel=True)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 150),
    k=st.integers(1, 200),
    rows=st.integers(0, 20),
    bits=st.integers(1, 2),
    activation=st.sampled_from(ACTIVATIONS),
    symbolic=st.booleans(),
    mirrored=st.booleans(),
)
def test_any_shape(n, k, rows, bits, activation, symbolic, mirrored):
    where = target("native")
    name = "xnor" if where.instruction_set != "scalar" else "scalar"
    one = case((n, k, rows), bits, activation, symbolic, mirrored)
    check(family(name), where, LocalDevice(), [one])


@pytest.mark.parametrize("where", TARGETS)
def test_rows_that_are_zero_tiny_or_not_finite(where, emulated):
    where = target(where)
    name = "xnor" if where.instruction_set != "scalar" else "scalar"
    bias = np.linspace(-1, 1, 37, dtype=np.float32)
    cases = []
    for activation in ACTIVATIONS:
        product, x, indices, codebook, _ = case((37, 40, 8), 2, activation, symbolic=True)
        x[0] = 0
        x[1] = 2.0**-101
        x[2, 5] = np.nan
        x[3, 7] = np.inf
        x[4, 39] = -np.inf
        x[5, ::2] = -0.0  # counts as positive
        x[6] = 3e38
        cases.append((product, x, indices, codebook, bias))
    results = run_linear(family(name), where, device_for(where, emulated), cases)
    for one, got in zip(cases, results, strict=True):
        np.testing.assert_array_equal(got[:2], np.broadcast_to(bias, (2, 37)))
        assert np.isnan(got[2:5]).all()
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(got[5:], expected(one)[5:], rtol=1e-5)


@pytest.mark.parametrize("where", VECTOR_TARGETS)
def test_scales_per_row_and_epilogue(where, emulated):
    where = target(where)
    product, x, indices, codebook, _ = case((37, 70, 3), 2, "int1")
    codebook = codebook * np.linspace(0.5, 2, 37, dtype=np.float32)[:, None]
    one = (product, x, indices, codebook, np.zeros(37, np.float32))
    (got,) = run_linear(family("xnor"), where, device_for(where, emulated), [one], "relu")
    np.testing.assert_array_equal(got, np.maximum(expected(one), 0))


@pytest.mark.parametrize("where", ["native", "cortex-a76"])
def test_the_longest_rows_that_fit_int32(where, emulated):
    where = target(where)
    k = MOST_INT8_K
    x = np.ones((2, k), np.float32)
    x[1, ::2] = -5  # the levels -3 and 1
    indices = np.repeat(np.arange(4, dtype=np.uint8)[:, None], k, axis=1)
    table = np.array([[-127, -127, -127, 127]], np.float32)
    one = (Product(4, k, 2, "int2", 2), x, indices, table, np.zeros(4, np.float32))
    name = "xnor" if where.instruction_set != "scalar" else "scalar"
    check(family(name), where, device_for(where, emulated), [one])
    longer = Product(4, k + 1, 2, "int2", 2)
    assert not any(f.exact(longer) for f in families_for(where, longer))


@pytest.mark.parametrize("bits", [1, 2])
def test_a_weight_takes_exactly_its_bits(bits):
    where = target("x86-64-v4")
    n, k = 256, 320
    product = Product(n, k, bits, "int1", 1)
    choice = Choice(where, product, family("xnor"), family("xnor").space(where, product)[0])
    indices = np.zeros((n, k), np.uint8)
    weight = Weight(indices, np.ones((1, 2**bits), np.float32), np.ones(1, np.float32))
    operands = choice.family.pack(choice, weight)
    assert operands["weights"].nbytes * 8 == n * k * bits
