from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from helpers.kernel_harness import (
    BITS,
    FP32,
    INT8,
    SHAPES,
    TABLES,
    TARGETS,
    VECTOR_TARGETS,
    device_for,
    run_linear,
    shapes_of,
    target,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.ops import reference
from gq_tvm.ops.weight import Weight
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.schedules import FAMILIES, Product, family
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.family import MOST_INT8_K


def extreme_case(shape: tuple[int, int, int], bits: int, symbolic: bool):
    """Integers in disguise: both scales are 1, so the output is the accumulator itself."""
    n, k, rows = shape
    rng = np.random.default_rng([n, k, rows, bits])
    codebook = rng.integers(-127, 128, (1, 2**bits)).astype(np.float32)
    codebook[0, :2] = (-127, 127)
    x = rng.integers(-127, 128, (rows, k)).astype(np.float32)
    x[:, 0] = 127
    x[-1] = 127  # the largest sums there are
    indices = rng.integers(0, 2**bits, (n, k)).astype(np.uint8)
    indices[0], indices[-1] = 0, 1
    product = Product(n, k, bits, "int8", None if symbolic else rows)
    return product, x, indices, codebook, np.zeros(n, np.float32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("where", "name"), INT8)
def test_integers_are_exact(where, name, bits, emulated):
    assert_exact(where, name, bits, emulated)


@pytest.mark.parametrize(("where", "name", "bits"), [*TABLES, ("x86-64-v4", "dense_int8", 3)])
def test_integers_of_other_families_are_exact(where, name, bits, emulated):
    assert_exact(where, name, (bits,), emulated)


@pytest.mark.emulated
def test_sums_of_long_rows_do_not_overflow_int16(emulated):
    """Where tables add up in int16: all bits set, all activations at their largest."""
    for where in ("x86-64-v3", "cortex-a76"):
        k = 4 * 1027
        case = (
            Product(3, k, 1, "int8", 1),
            np.full((1, k), 127, np.float32),
            np.repeat(np.array([[0], [1], [1]], np.uint8), k, axis=1),
            np.array([[-127, 127]], np.float32),
            np.zeros(3, np.float32),
        )
        device = device_for(target(where), emulated)
        (got,) = run_linear(family("table"), target(where), device, [case])
        total = k * 127**2
        np.testing.assert_array_equal(got, np.array([[-total, total, total]], np.float32))


def assert_exact(where, name, bits, emulated, parallel=False):
    cases = [
        extreme_case(shape, each, i % 2 == 1) for i, (each, shape) in enumerate(shapes_of(bits))
    ]
    where = target(where)
    results = run_linear(family(name), where, device_for(where, emulated), cases, parallel=parallel)
    assert_integers(cases, results)


def assert_integers(cases, results):
    for case, got in zip(cases, results, strict=True):
        product, x, indices, codebook, _ = case
        exact = x.astype(np.int64) @ codebook[0].astype(np.int64)[indices].T
        np.testing.assert_array_equal(got, exact.astype(np.float32), err_msg=str(product))


@pytest.mark.parametrize(("name", "bits"), [("lookup", 3), ("table", 1), ("dense_int8", 2)])
def test_schedules_change_nothing(name, bits, emulated):
    """The far corners of each space: most and fewest of every knob."""
    where = target("x86-64-v4")
    space = family(name).space(where, Product(131, 77, bits, "int8", 21))
    corners = {
        extreme(space, key=lambda s, knob=knob: (s[knob], str(s)))  # type: ignore[misc]
        for knob in space[0]
        for extreme in (min, max)
    }
    schedules = [one for one in sorted(corners, key=str) for _ in SHAPES[1:]]
    cases = [extreme_case(shape, bits, shape[2] > 1) for _ in corners for shape in SHAPES[1:]]
    results = run_linear(
        family(name), where, device_for(where, emulated), cases, schedule=schedules
    )
    assert_integers(cases, results)


@pytest.mark.parametrize("where", VECTOR_TARGETS)
def test_threads_change_nothing(where, emulated):
    assert_exact(where, "lookup", (4,), emulated, parallel=True)


def float_case(shape, bits, activation, symbolic, per_row=False):
    n, k, rows = shape
    rng = np.random.default_rng([n, k, rows, bits])
    codebook = rng.standard_normal((1, 2**bits)).astype(np.float32)
    if per_row:
        codebook = codebook * rng.uniform(0.5, 2, (n, 1)).astype(np.float32)
    return (
        Product(n, k, bits, activation, None if symbolic else rows),
        rng.standard_normal((rows, k)).astype(np.float32),
        rng.integers(0, 2**bits, (n, k)).astype(np.uint8),
        codebook,
        rng.standard_normal(n).astype(np.float32),
    )


def assert_close(got, case, bound):
    product, x, indices, codebook, bias = case
    want = reference.codebook_linear(
        x, Weight.from_tables(indices, codebook, product.activation), bias, product.activation
    )
    assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want), (product, got, want)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("where", "name"), FP32)
def test_fp32_error_is_bounded(where, name, bits, emulated):
    where = target(where)
    chosen = family(name)
    cases = [
        float_case(shape, each, "fp32", symbolic=i % 2 == 1)
        for i, (each, shape) in enumerate(shapes_of(bits))
    ]
    results = run_linear(chosen, where, device_for(where, emulated), cases)
    for case, got in zip(cases, results, strict=True):
        assert_close(got, case, 1e-5)


@pytest.mark.parametrize("where", VECTOR_TARGETS)
def test_baseline_takes_any_activation(where, emulated):
    where = target(where)
    chosen = family("dense_f32")
    cases = [float_case(shape, 4, "fp32", symbolic=False) for shape in SHAPES]
    results = run_linear(chosen, where, device_for(where, emulated), cases)
    for case, got in zip(cases, results, strict=True):
        assert_close(got, case, 1e-5)
    assert chosen.supports(where, Product(1, 1, 4, "int8"))


@pytest.mark.parametrize("name", ["lookup", "lookup_f32", "scalar"])
def test_scales_per_row(name, emulated):
    where = target("native")
    activation = "int8" if name == "lookup" else "fp32"
    chosen = family(name)
    cases = [float_case(shape, 3, activation, False, per_row=True) for shape in SHAPES]
    results = run_linear(chosen, where, device_for(where, emulated), cases)
    for case, got in zip(cases, results, strict=True):
        assert_close(got, case, 1e-5)


@pytest.mark.parametrize("where", TARGETS)
def test_rows_that_are_zero_tiny_or_not_finite(where, emulated):
    where = target(where)
    name = "lookup" if where.instruction_set != "scalar" else "scalar"
    case = float_case((37, 40, 6), 2, "int8", symbolic=True)
    product, x, indices, codebook, bias = case
    x[0] = 0
    x[1] = 2.0**-101
    x[2, 5] = np.nan
    x[3, 7] = np.inf
    x[4, 39] = -np.inf
    (got,) = run_linear(family(name), where, device_for(where, emulated), [case])
    np.testing.assert_array_equal(got[:2], np.broadcast_to(bias, (2, 37)))
    assert np.isnan(got[2:5]).all()
    assert_close(got[5:], (product, x[5:], indices, codebook, bias), 1e-6)


ALL = ("x86-64-v4", "x86-64", "cortex-a76")
EPILOGUES = [
    "relu", "relu6", "sigmoid", "hardsigmoid", "tanh", "silu", "hardswish", "gelu", "glu",
    "scale=-0.25", "residual",
    "silu scale=0.5 residual", "glu scale=3.0 residual",
]  # fmt: skip


def apply(epilogue, a, residual):
    """An epilogue in float64."""
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-a))
    linear, gate = np.array_split(a, 2, axis=1) if epilogue.glu else (a, a)
    y = {
        "": a,
        "relu": np.maximum(a, 0),
        "relu6": np.clip(a, 0, 6),
        "sigmoid": sigmoid,
        "hardsigmoid": np.clip(a + 3, 0, 6) / 6,
        "hardswish": a * np.clip(a + 3, 0, 6) / 6,
        "tanh": np.tanh(a),
        "silu": a * sigmoid,
        "gelu": a * np.vectorize(NormalDist().cdf)(a),
        "glu": linear / (1 + np.exp(-np.maximum(gate, -700))),
    }[epilogue.activation]
    return residual + epilogue.scale * y if epilogue.residual else epilogue.scale * y


@pytest.mark.parametrize("where", TARGETS)
def test_epilogues(where, emulated):
    where = target(where)
    name = "lookup_f32" if where.instruction_set != "scalar" else "scalar"
    device = device_for(where, emulated)
    # The instruction sets differ in the functions at most: the rest is the same code.
    epilogues = EPILOGUES if where.name in ALL else EPILOGUES[:1] + EPILOGUES[-2:]
    cases, residuals = [], []
    for i, epilogue in enumerate(epilogues):
        case = float_case((132, 20, 5) if i % 2 else (14, 7, 3), 4, "fp32", symbolic=i % 3 == 0)
        size = np.array([1e-4, 1, 1000, 1, 1])[: len(case[1]), None]
        case[1][:] *= size.astype(np.float32)  # from almost linear to saturated
        outputs = Epilogue.parse(epilogue).outputs(len(case[4]))
        residuals.append(normal_like(np.empty((len(case[1]), outputs))))
        cases.append(case)
    results = run_linear(family(name), where, device, cases, epilogues, residuals=residuals)
    for epilogue, case, residual, got in zip(epilogues, cases, residuals, results, strict=True):
        _, x, indices, codebook, bias = case
        a = x.astype(np.float64) @ codebook[0].astype(np.float64)[indices].T + bias
        # Rounding of `a` itself (1e-5 of its size) shows in the result, hence the slack.
        slack = 1e-6 * np.maximum(1, np.abs(a).max(axis=1, keepdims=True))
        error = np.abs(got - apply(Epilogue.parse(epilogue), a, residual))
        assert (error <= 1e-5 * np.abs(got) + 4 * slack).all(), epilogue


def normal_like(array):
    return np.random.default_rng(1).standard_normal(array.shape).astype(np.float32)


@pytest.mark.parametrize("where", ["x86-64-v4", "cortex-a76"])
def test_a_glu_of_integers_is_that_of_the_scalar_kernel(where, emulated):
    where = target(where)
    cases = [float_case(shape, 3, "int8", symbolic=False) for shape in ((6, 5, 3), (154, 33, 7))]
    device = device_for(where, emulated)
    for vector, scalar in zip(
        run_linear(family("lookup"), where, device, cases, "glu"),
        run_linear(family("scalar"), where, device, cases, "glu"),
        strict=True,
    ):
        np.testing.assert_allclose(vector, scalar, rtol=1e-5, atol=1e-6)


def test_epilogues_as_text():
    for text in ("", *EPILOGUES):
        assert str(Epilogue.parse(text)) == text
    for text in ("mish", "relu silu", "scale=x"):
        with pytest.raises(Error, match="is no epilogue"):
            Epilogue.parse(text)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 200),
    k=st.integers(1, 200),
    rows=st.integers(1, 40),
    bits=st.integers(1, 8),
    symbolic=st.booleans(),
)
def test_any_shape(n, k, rows, bits, symbolic):
    where = target("native")
    case = extreme_case((n, k, rows), bits, symbolic)
    chosen = family("lookup" if where.instruction_set != "scalar" else "scalar")
    (got,) = run_linear(chosen, where, LocalDevice(), [case])
    exact = case[1].astype(np.int64) @ case[3][0].astype(np.int64)[case[2]].T
    np.testing.assert_array_equal(got, exact.astype(np.float32))


def test_vector_and_scalar_families_agree_bit_for_bit(emulated):
    where = target("native")
    cases = [extreme_case(shape, 5, symbolic=False) for shape in SHAPES]
    device = device_for(where, emulated)
    for vector, scalar in zip(
        run_linear(family("lookup"), where, device, cases),
        run_linear(family("scalar"), where, device, cases),
        strict=True,
    ):
        np.testing.assert_array_equal(vector, scalar)


@pytest.mark.parametrize("name", ["lookup", "lookup_f32", "scalar"])
def test_no_rows(name, emulated):
    where = target("native")
    activation = "int8" if name == "lookup" else "fp32"
    cases = [float_case((9, 5, 0), 3, activation, symbolic) for symbolic in (False, True)]
    chosen = family(name)
    for got in run_linear(chosen, where, device_for(where, emulated), cases):
        assert got.shape == (0, 9)


@pytest.mark.parametrize("where", ["native", "cortex-a76"])
def test_the_longest_rows_that_fit_int32(where, emulated):
    where = target(where)
    n = MOST_INT8_K
    case = (
        Product(2, n, 1, "int8", 1),
        np.full((1, n), 127, np.float32),
        np.repeat(np.array([[0], [1]], np.uint8), n, axis=1),
        np.array([[-127, 127]], np.float32),
        np.zeros(2, np.float32),
    )
    chosen = family("lookup" if where.instruction_set != "scalar" else "scalar")
    (got,) = run_linear(chosen, where, device_for(where, emulated), [case])
    np.testing.assert_array_equal(got, np.array([[-n * 127**2, n * 127**2]], np.float32))
    longer = Product(2, n + 1, 1, "int8", 1)
    assert not any(one.supports(where, longer) and one.exact(longer) for one in FAMILIES)


def test_silu_of_huge_numbers(emulated):
    where = target("native")
    name = "lookup_f32" if where.instruction_set != "scalar" else "scalar"
    values = np.array([-1e38, -1e20, -200, -100, -90, -88, 0, 100, 1e38], np.float32)
    case = (
        Product(1, 1, 1, "fp32", len(values)),
        values[:, None],
        np.ones((1, 1), np.uint8),
        np.array([[0, 1]], np.float32),
        np.zeros(1, np.float32),
    )
    (got,) = run_linear(family(name), where, device_for(where, emulated), [case], "silu")
    with np.errstate(over="ignore"):
        want = values.astype(np.float64) / (1 + np.exp(-values.astype(np.float64)))
    np.testing.assert_allclose(got[:, 0], want, rtol=1e-5, atol=1e-35)
