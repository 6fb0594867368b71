"""Outliers in kernels, against the definition: added to whatever the rest of a weight is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.kernel_harness import (
    BASELINE,
    FP32,
    INT8,
    TABLES,
    TARGETS,
    XNOR,
    Kernels,
    device_for,
    run_weights,
    target,
)
from helpers.recurrent_case import MACHINES, assert_layers_computed, recurrent_case
from helpers.weights import weight
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gq_tvm.ops import reference
from gq_tvm.ops.weight import Outliers
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.schedules import Product, family
from gq_tvm.schedules.scalar import direct

#: (N, K, rows): less than a vector, ragged tiles of one row and of few, a row block and a bit.
SHAPES = ((7, 40, 5), (131, 77, 1), (70, 300, 3), (64, 130, 21))


def with_outliers(made, count, stored="float16", seed=0):
    """Of either sign and of all sizes, down to subnormal floats of 16 bits."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.choice(made.indices.size, count, replace=False))
    values = 10 ** rng.uniform(-7, 2, count) * rng.choice([-1, 1], count)
    return replace(made, outliers=Outliers(at, values.astype(stored)))


def case(shape, bits, activation, form="row", stored="float16", symbolic=False, share=9):
    n, k, rows = shape
    made = with_outliers(weight(n, k, bits, form, 32), max(1, n * k // share), stored, bits)
    product = Product(n, k, bits, activation, None if symbolic else rows).of(made)
    rng = np.random.default_rng([*shape, bits])
    return (
        product,
        rng.standard_normal((rows, k)).astype(np.float32),
        made,
        rng.standard_normal(n).astype(np.float32),
    )


def assert_computed(name, cases, results):
    """Integers bit for bit, as the sums of outliers are; floats within the definition's bound."""
    for (product, x, made, bias), got in zip(cases, results, strict=True):
        arithmetic = family(name).arithmetic(product)
        want = reference.codebook_linear(x, made, bias, arithmetic)
        if arithmetic == "fp32":
            assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want), product
        else:
            np.testing.assert_array_equal(got, want, err_msg=str(product))


def run(where, name, cases, emulated):
    where = target(where)
    results = run_weights(family(name), where, device_for(where, emulated), cases)
    assert_computed(name, cases, results)


def bits_for(where):
    """All on three machines; the others differ from these in few instructions."""
    return range(1, 9) if where in ("x86-64-v4", "x86-64-v3", "cortex-a76") else (1, 4, 7)


@pytest.mark.parametrize(("where", "name"), INT8)
def test_beside_integers(where, name, emulated):
    cases = [
        case(
            SHAPES[bits % 4],
            bits,
            "int8",
            ("row", "group")[bits // 2 % 2],
            ("float16", "float32")[bits % 3 == 0],
            symbolic=bits % 2 == 0,
        )
        for bits in bits_for(where)
    ]
    run(where, name, cases, emulated)


@pytest.mark.parametrize(("where", "name"), [*FP32, *BASELINE])
def test_beside_floats(where, name, emulated):
    forms = ("row",) if name == "dense_f32" else ("row", "group")
    cases = [
        case(SHAPES[bits % 4], bits, "fp32", forms[bits // 2 % len(forms)])
        for bits in bits_for(where)[::2]
    ]
    run(where, name, cases, emulated)


@pytest.mark.parametrize(
    ("where", "name", "bits", "activation"),
    [
        *((where, name, 2, "int2") for where, name in XNOR),
        *((where, name, bits, "int8") for where, name, bits in TABLES),
    ],
)
def test_beside_few_bits(where, name, bits, activation, emulated):
    run(where, name, [case(shape, bits, activation) for shape in SHAPES[1:]], emulated)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 300), st.integers(1, 20)),
    bits=st.integers(1, 8),
    form=st.sampled_from(["tensor", "row", "group"]),
    stored=st.sampled_from(["float16", "float32"]),
    share=st.sampled_from([1, 3, 1000]),
    symbolic=st.booleans(),
)
def test_beside_any_weight(shape, bits, form, stored, share, symbolic):
    where = target("native")
    name = "lookup" if where.instruction_set != "scalar" else "scalar"
    drawn = case(shape, bits, "int8", form, stored, symbolic, share)
    results = run_weights(family(name), where, LocalDevice(), [drawn])
    assert_computed(name, [drawn], results)


@pytest.mark.parametrize("rows", [1, 21])
def test_before_what_is_fused_behind(rows):
    """A gated linear unit reorders the rows of the weight; threads have sums of their own."""
    where, name = target("native"), "scalar"
    name = name if where.instruction_set == "scalar" else "lookup"
    product, x, made, bias = case((600, 130, rows), 4, "int8")
    y = reference.codebook_linear(x, made, bias, "int8")
    residual = np.random.default_rng(0).standard_normal((rows, 300)).astype(np.float32)
    (got,) = run_weights(
        family(name), where, LocalDevice(), [(product, x, made, bias)], "glu residual",
        parallel=True, residuals=[residual],
    )  # fmt: skip
    value, gate = np.split(y.astype(np.float64), 2, axis=1)
    np.testing.assert_allclose(got, residual + value / (1 + np.exp(-gate)), rtol=1e-4, atol=1e-4)


def layer(where, name, cell, activation, shape):
    """A recurrent layer: its kernel, inputs, outputs, and definition."""
    counts = 90, 70 if shape[3] > 1 else 0, 60

    def draw(rng, rows, k, part):
        made = weight(rows, k, 3, "row", seed=k)
        made = replace(made, scale=np.abs(made.scale) / 20)
        if not counts[part]:
            return made
        made = with_outliers(made, counts[part], seed=k)
        return replace(made, outliers=made.outliers._replace(values=made.outliers.values / 100))

    return recurrent_case(where, name, cell, activation, shape, draw)


@pytest.mark.parametrize(("where", "name", "activation"), MACHINES)
def test_in_recurrent_layers(where, name, activation, emulated):
    """In all products and in one, over steps (whose state is overwritten) and in one."""
    where = target(where)
    layers = [
        layer(where, name, "lstm", activation, (21, 37, 2, 3)),
        layer(where, name, "gru", activation, (40, 10, 1, 4)),
        layer(where, name, "lstm", activation, (40, 10, 1, 1)),
        layer(where, name, "projected_lstm", activation, (21, 37, 2, 3, 19)),
    ]
    assert_layers_computed(where, device_for(where, emulated), layers, activation)


@pytest.mark.parametrize("where", TARGETS)
def test_where_weights_are_looked_up(where, emulated):
    where = target(where)
    table = with_outliers(weight(9, 70, 3, "group", 32, zero=True), 60)
    conv = with_outliers(weight(12, 70, 5), 60)
    conv = replace(conv, indices=conv.indices.reshape(12, 10, 7))
    products = [Product(one.rows, one.width, one.bits, "fp32").of(one) for one in (table, conv)]
    options: Any = {"stride": 1, "padding": 3, "dilation": 1, "groups": 3, "activation": ""}
    functions = {
        "embedding": direct.embedding(products[0]),
        "conv1d": direct.grouped_conv1d(products[1], 7, **options),
    }
    kernels = Kernels(where, device_for(where, emulated), functions)
    ids = np.array([3, 8, 0, 3])
    (got,) = kernels("embedding", [ids, *direct.pack(table).values()], [(4, 70)])
    np.testing.assert_array_equal(got, table.expand()[ids])
    rng = np.random.default_rng(0)
    x, bias = rng.standard_normal((2, 30, 9), np.float32), rng.standard_normal(12, np.float32)
    (got,) = kernels("conv1d", [x, *direct.pack(conv).values(), bias], [(2, 12, 9)])
    want = reference.codebook_conv1d(x, conv, bias, 1, 3, 1, 3, "fp32")
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
