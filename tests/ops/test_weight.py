"""A weight in a codebook: what it means, what it refuses, what it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.weights import FORMS, weight
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.ops import reference
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.ops.rounding import ROW_QUANTIZERS
from gq_tvm.ops.weight import Outliers, Weight


def one_by_one(made: Weight) -> np.ndarray:
    """The weight in float64, an element at a time."""
    rows, width = made.indices.shape
    found = np.empty((rows, width))
    for n in range(rows):
        for k in range(width):
            j = k // made.group if made.group else 0
            at: Any = (0,) if made.scale.shape == (1,) else (n, j)[: made.scale.ndim]
            by_group = made.codebook.ndim == 3
            table = (
                made.codebook[0, j] if by_group else made.codebook[n * len(made.codebook) // rows]
            )
            zero = 0.0 if made.zero is None else float(made.zero[at])
            found[n, k] = float(made.scale[at]) * (float(table[made.indices[n, k]]) - zero)
    for position, value in zip(*(made.outliers or ([], [])), strict=True):
        found.reshape(-1)[position] += float(value)
    return found


@settings(max_examples=60, deadline=None)
@given(FORMS)
def test_it_is_scale_times_centroid_less_zero_and_outliers(made):
    made.check("weight")
    np.testing.assert_allclose(made.expand(), one_by_one(made), rtol=1e-6, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(FORMS, st.sampled_from([1, 3]))
def test_parts_of_its_rows_are_weights(made, parts):
    split = made.split_rows(parts)
    for part in split:
        part.check("part")
    np.testing.assert_array_equal(np.concatenate([one.expand() for one in split]), made.expand())


@settings(max_examples=60, deadline=None)
@given(FORMS)
def test_a_factor_of_any_sign_folds_into_the_scale(made):
    factor = np.resize(np.array([2, -0.3, 0], np.float32), made.rows)
    folded = made.fold(factor)
    folded.check("folded")
    wanted = made.expand() * factor[:, None]
    np.testing.assert_allclose(folded.expand(), wanted, rtol=1e-5, atol=1e-5)
    assert folded.codebook is made.codebook


@settings(max_examples=60, deadline=None)
@given(FORMS, st.sampled_from(ACTIVATIONS))
def test_a_product_is_that_of_the_floats(made, activation):
    """Of integers where the tables lie on int8 grids; outliers meet floats."""
    rng = np.random.default_rng(0)
    made = replace(made, codebook=rng.integers(-127, 128, made.codebook.shape).astype(np.float32))
    made.codebook[..., 0] = 127
    x = rounded = rng.standard_normal((2, made.width)).astype(np.float32)
    if activation != "fp32":
        q, step = ROW_QUANTIZERS[activation](x)
        rounded = q * step[:, None]
    got = reference.product(x, made, activation)
    coded = replace(made, outliers=None).expand().astype(np.float64)
    wanted = rounded.astype(np.float64) @ coded.T + x @ (made.expand() - coded).T
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_groups_are_added_in_rising_order_in_float32():
    """By hand: terms that only this order adds up to 1."""
    x = np.full((1, 48), 127, np.float32)
    indices = np.ones((1, 48), np.uint8)
    codebook = np.array([[0, 127]], np.float32)
    step = np.float32(1 / (127 * 127 * 16))
    scale = np.array([[2.0**40, -(2.0**40), 1]], np.float32) * step
    y = reference.product(x, Weight(indices, codebook, scale), "int8")
    np.testing.assert_allclose(y, [[1]], rtol=1e-6)
    turned = Weight(indices, codebook, np.ascontiguousarray(scale[:, ::-1]))
    assert reference.product(x, turned, "int8") == 0


def test_outliers_are_added_in_rising_order_in_float32():
    """By hand: products that only this order adds up to 1."""
    x = np.array([[1, 1, 1, 0.5]], np.float32)
    weight = Weight(
        np.zeros((1, 4), np.uint8), np.zeros((1, 2), np.float32), np.ones(1, np.float32)
    )
    values = np.array([2.0**30, -(2.0**30), 0.5, 1], np.float32)
    weight = replace(weight, outliers=Outliers(np.arange(4), values))
    np.testing.assert_array_equal(reference.product(x, weight, "int8"), [[1]])
    turned = replace(weight, outliers=Outliers(np.arange(4), values[[0, 2, 1, 3]]))
    np.testing.assert_array_equal(reference.product(x, turned, "int8"), [[0.5]])


def test_its_bytes_are_those_of_its_parts():
    made = weight(512, 1024, 8, "row")
    assert made.bytes == 512 * 1024 + 4 * 256 + 4 * 512
    made = weight(6, 70, 3, "group", 32, zero=True, outliers=4, stored="float16")
    assert made.bytes == 158 + 4 * 8 + 2 * 18 + 2 * 18 + (8 + 2) * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.zeros((4, 70), np.int32)}, "indices must be uint8"),
        ({"indices": np.zeros((4, 7, 10), np.uint8)}, r"indices must have shape \[any, any\]"),
        ({"indices": np.full((4, 70), 16, np.uint8)}, "index 16 is beyond the 16"),
        ({"codebook": np.zeros((1, 12), np.float32)}, "2, 4, ... or 256 centroids, got 12"),
        ({"codebook": np.zeros((3, 16), np.float32)}, "share out the 4 rows of indices, got 3"),
        ({"codebook": np.zeros((2, 3, 16), np.float32)}, r"must have shape \[1, any, any\]"),
        ({"codebook": np.zeros((1, 2, 16), np.float32)}, "each of 2 groups of inputs, scale has 3"),
        ({"codebook": np.full((1, 16), np.nan, np.float32)}, "codebook holds NaN"),
        ({"scale": np.zeros(3, np.float32)}, r"\[1\], \[4\] or \[4, groups\], got \[3\]"),
        ({"scale": np.zeros((4, 4), np.float32)}, "4 groups do not fit 70 inputs: a group has 16"),
        ({"scale": np.zeros((4, 3), np.float64)}, "scale must be float32, float16 or uint8"),
        ({"scale": np.full((4, 3), np.inf, np.float32)}, "scale holds NaN or infinity"),
        ({"zero": np.zeros(4, np.float32)}, r"zero must have shape \[4, 3\], got \[4\]"),
        (
            {"outliers": Outliers(np.array([280]), np.zeros(1, np.float32))},
            "280 is outside the 280",
        ),
        ({"outliers": Outliers(np.array([1, 1]), np.zeros(2, np.float32))}, "must rise"),
        (
            {"outliers": Outliers(np.array([1], np.int16), np.zeros(1, np.float32))},
            "positions of outliers must be int32 or int64, got int16",
        ),
        (
            {"outliers": Outliers(np.array([1]), np.zeros(2, np.float32))},
            r"values of outliers must have shape \[1\], got \[2\]",
        ),
        ({"outliers": Outliers(np.array([1]), np.full(1, np.inf, np.float32))}, "is NaN or inf"),
    ],
)
def test_what_makes_no_weight_is_refused(change, message):
    good = weight(4, 70, 4, "group", 32)
    good.check("layer")
    with pytest.raises(Error, match=f"^layer: .*{message}"):
        replace(good, **change).check("layer")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_products_of_a_scale_and_a_table_are_taken_apart(activation):
    shape = np.array([-1, -0.25, 0.5, 0.75], np.float32)
    scale = np.array([2, 0, 0.125], np.float32)
    indices = np.random.default_rng(0).integers(0, 4, (3, 9)).astype(np.uint8)
    found = Weight.from_tables(indices, scale[:, None] * shape, activation)
    assert found.codebook.shape == (1, 4)
    tables = Weight(indices, scale[:, None] * shape, np.ones(1, np.float32))
    np.testing.assert_allclose(found.expand(), tables.expand(), atol=0.02)
    x = np.random.default_rng(1).standard_normal((5, 9)).astype(np.float32)
    np.testing.assert_allclose(
        reference.product(x, found, activation),
        reference.product(x, tables, activation),
        rtol=1e-6,
    )
    different = Weight.from_tables(indices, np.stack([shape, shape**2, shape]), activation)
    assert different.codebook.shape == (3, 4)
