"""Scales and zero points of groups of inputs, and several tables, against the definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.kernel_harness import (
    FP32,
    INT8,
    device_for,
    run_weights,
    target,
)
from helpers.recurrent_case import MACHINES, assert_layers_computed, recurrent_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gq_tvm.ops import reference, reference_recurrent
from gq_tvm.ops.weight import Weight
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.schedules import FAMILIES, Product, family

#: (N, K, rows, group): whole groups and a short last one, less than a tile and several.
SHAPES = (
    (131, 77, 1, 32),
    (7, 40, 5, 16),
    (70, 300, 2, 128),
    (64, 130, 21, 64),
)
#: dtypes of scales, and of zero points if there are any.
F32, F16, U8 = "float32", "float16", "uint8"
#: By bits: between them every dtype with every other, every group with zero points and without.
STORED = ((F16, F16), (U8,), (U8, F32), (U8,), (F16,), (F16, U8), (F16,), (F32, F32))
CASES = [(bits, SHAPES[bits % 4], stored) for bits, stored in enumerate(STORED, 1)]


def numbers(rng, shape, dtype, largest):
    """Of either sign; those of 16 bits down to subnormal ones."""
    if dtype == U8:
        return rng.integers(0, 256, shape).astype(np.uint8)
    size = 10 ** rng.uniform(-7, -3, shape) if dtype == F16 else rng.uniform(0, largest, shape)
    return (size * rng.choice([-1, 1], shape)).astype(dtype)


def drawn_weight(rng, shape, bits, group, stored, tables=1) -> Weight:
    """Centroids on an int8 grid with the largest there are."""
    n, k = shape
    groups = -(-k // group) if group else 1
    codebook = rng.integers(-127, 128, (tables or groups, 2**bits)).astype(np.float32)
    codebook[:, :2] = (-127, 127)
    codebook *= 0.37 if F16 in stored or U8 in stored else 1
    scales = (n, groups) if group else n
    return Weight(
        rng.integers(0, 2**bits, (n, k)).astype(np.uint8),
        codebook if tables else codebook[None],
        *(numbers(rng, scales, *one) for one in zip(stored, (2, 50), strict=False)),
    )


def case(bits, shape, stored, activation, tables=1, symbolic=False):
    n, k, rows, group = shape
    rng = np.random.default_rng([*shape, bits])
    weight = drawn_weight(rng, (n, k), bits, group, stored, tables)
    product = Product(n, k, bits, activation, None if symbolic else rows).of(weight)
    x = rng.standard_normal((rows, k)).astype(np.float32)
    x[-1] = np.abs(x[-1]).max()  # the largest sums there are
    return product, x, weight, np.zeros(n, np.float32)


def assert_computed(cases, results):
    """Integers bit for bit, floats within the definition's bound."""
    for (product, x, weight, bias), got in zip(cases, results, strict=True):
        want = reference.codebook_linear(x, weight, bias, product.activation)
        if product.activation == "fp32":
            assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want), product
        else:
            np.testing.assert_array_equal(got, want, err_msg=str(product))


def run(where, name, cases, emulated):
    where = target(where)
    results = run_weights(family(name), where, device_for(where, emulated), cases)
    assert_computed(cases, results)


def some(where):
    """All cases on three machines; the others differ from these in few instructions."""
    return CASES if where in ("x86-64-v4", "x86-64-v3", "cortex-a76") else CASES[::3]


@pytest.mark.parametrize(("where", "name"), INT8)
def test_groups_of_integers_are_exact(where, name, emulated):
    cases = [
        case(bits, shape, stored, "int8", symbolic=i % 3 == 0)
        for i, (bits, shape, stored) in enumerate(some(where))
    ]
    run(where, name, cases, emulated)


@pytest.mark.parametrize(("where", "name"), FP32)
def test_groups_of_floats_are_close(where, name, emulated):
    cases = [
        case(bits, shape, stored, "fp32", symbolic=i % 3 == 0)
        for i, (bits, shape, stored) in enumerate(some(where)[1::2])
    ]
    run(where, name, cases, emulated)


@pytest.mark.parametrize("where", ["x86-64", "arm"])
def test_scalar_takes_every_form(where, emulated):
    """Tables of rows, of blocks of rows and of groups, all kinds of activations."""
    cases = [
        case(bits, (32, 77, 3, group), stored, activation, tables)
        for i, activation in enumerate(("int8", "int2", "int1", "fp32"))
        for bits, group, stored, tables in (
            (1 + i, 0, (F32,), 32),
            (3 + i, 0, (F32, F32), 4),
            (2 + i, 16, (F16,), 8),
            (5 - i, 32, (U8, F16), 0),
        )
    ]
    run(where, "scalar", cases, emulated)


@pytest.mark.parametrize("where", ["x86-64-v3", "cortex-a76", "arm", "cortex-a7"])
def test_a_zero_point_of_each_row_is_exact(where, emulated):
    cases = [
        case(bits, (37, 45, 3, 0), stored, "int8")
        for bits, stored in ((2, (F32, F32)), (4, (F16, F16)), (8, (U8, F32)))
    ]
    run(where, "lookup", cases, emulated)


@pytest.mark.parametrize("where", ["x86-64-v4", "x86-64-v3", "x86-64", "cortex-a76"])
def test_the_order_of_a_glu_moves_scales_too(where, emulated):
    where = target(where)
    chosen = family("lookup" if where.instruction_set != "scalar" else "scalar")
    cases = [case(3, (74, 50, 3, 16), (F16, F32), "int8"), case(4, (6, 40, 1, 32), (F32,), "int8")]
    results = run_weights(chosen, where, device_for(where, emulated), cases, "glu")
    for (product, x, weight, bias), got in zip(cases, results, strict=True):
        value, gate = np.split(reference.codebook_linear(x, weight, bias, product.activation), 2, 1)
        np.testing.assert_allclose(
            got, value * reference_recurrent.sigmoid(gate), rtol=1e-5, atol=1e-30
        )


def layer(where, name, cell, activation, shape, stored):
    """A recurrent layer whose parts have groups: its kernel, inputs, outputs, and definition."""

    def draw(rng, rows, k, part):
        weight = drawn_weight(rng, (rows, k), 3, (16, 32, 16)[part], stored[part])
        factor = np.float32(2e-4 / np.abs(weight.expand()).max() * 127)
        return replace(weight, codebook=weight.codebook * factor)

    return recurrent_case(where, name, cell, activation, shape, draw)


@pytest.mark.parametrize(("where", "name", "activation"), MACHINES)
def test_recurrent_layers_compute_their_definition(where, name, activation, emulated):
    where = target(where)
    layers = [
        layer(where, name, "lstm", activation, (21, 37, 2, 3), ((F32, F32), (F16,))),
        layer(where, name, "gru", activation, (40, 10, 1, 1), ((U8,), (F16, F16))),
        layer(
            where, name, "projected_lstm", activation, (9, 37, 2, 3, 19), ((F32,), (F16,), (U8,))
        ),
    ]
    assert_layers_computed(where, device_for(where, emulated), layers, activation)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 150),
    k=st.integers(17, 300),
    rows=st.integers(1, 20),
    bits=st.integers(1, 8),
    group=st.sampled_from([16, 32, 64, 128]),
    stored=st.lists(st.sampled_from([F32, F16, U8]), min_size=1, max_size=2),
    symbolic=st.booleans(),
)
def test_any_shape_in_groups(n, k, rows, bits, group, stored, symbolic):
    where = target("native")
    drawn = case(bits, (n, k, rows, group), stored, "int8", symbolic=symbolic)
    chosen = family("lookup" if where.instruction_set != "scalar" else "scalar")
    assert_computed([drawn], run_weights(chosen, where, LocalDevice(), [drawn]))


@pytest.mark.parametrize("where", ["x86-64-v4", "x86-64-v3", "x86-64", "cortex-a510", "cortex-a7"])
def test_families_decline_what_they_cannot(where):
    """Scalar is there for every form; no other takes several tables."""
    where = target(where)
    for activation in ("int8", "int2", "int1", "fp32"):
        for form in ({"group": 32}, {"zero": True}, {"group": 16, "zero": True}, {"tables": 4}):
            product = Product(64, 64, 1, activation, 1, **form)
            able = {
                one.name for one in FAMILIES if one.supports(where, product) and one.exact(product)
            }
            lookups = {"int8": {"lookup"}, "fp32": {"lookup_f32"}}.get(activation, set())
            if where.instruction_set == "scalar" or "tables" in form:
                lookups = set()
            assert able - {"dense_int8"} == lookups | {"scalar"}
