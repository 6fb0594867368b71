from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.ops.checks import GROUPS
from gq_tvm.ops.palettes import find
from gq_tvm.ops.palettes.known import TABLES

RNG = np.random.default_rng(0)


def scaled(table, rows, width, group, scale, seed=0):
    """Weights drawn from a table times a scale a group of inputs, the last of a row short."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, len(table), (rows, width))
    codes[:, ::group] = np.abs(table).argmax()  # each group has the largest entry
    scales = scale(rng, (rows, -(-width // group))).repeat(group, axis=1)[:, :width]
    return table[codes] * scales


def halves(rng, shape):
    return rng.standard_normal(shape).astype(np.float16).astype(np.float32)


def floats(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def assert_found(values, bits, tables=1, groups=None):
    found = find(values)
    assert found is not None
    found.check("found", values.ndim)
    assert np.array_equal(found.expand(), values)
    assert (found.bits, found.codebook.shape[-2]) == (bits, tables)
    assert groups is None or found.groups == groups
    return found


@settings(deadline=None, max_examples=40)
@given(
    bits=st.integers(1, 8),
    rows=st.integers(8, 40),
    width=st.integers(1, 200),
    seed=st.integers(0, 2**31),
)
def test_few_values_are_found_or_too_small_a_gain(bits, rows, width, seed):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal(2**bits).astype(np.float32)
    values = table[rng.integers(0, 2**bits, (rows, width))]
    found = find(values)
    if found is None:
        assert values.size * bits / 8 + table.nbytes + 4 > values.nbytes / 2
    else:
        assert np.array_equal(found.expand(), values)
        assert found.bits <= bits


@settings(deadline=None, max_examples=60)
@given(
    table=st.sampled_from(TABLES),
    group=st.sampled_from(GROUPS),
    width=st.integers(129, 300),
    scale=st.sampled_from([halves, floats]),
    seed=st.integers(0, 2**31),
)
def test_known_tables_times_scales_of_groups_are_found(table, group, width, scale, seed):
    values = scaled(table, 64, width, group, scale, seed)
    found = find(values)
    assert found is not None
    assert np.array_equal(found.expand(), values)
    assert found.bits <= max(1, (len(table) - 1).bit_length())


@pytest.mark.parametrize("group", [*GROUPS, 640])
def test_unknown_tables_divided_by_their_largest_entry_are_found(group):
    table = np.sort(RNG.standard_normal(16)).astype(np.float32)
    table /= np.abs(table).max()
    table[[0, -1]] = -1, 1
    assert_found(scaled(table, 64, 640, group, floats), 4)


def test_scales_are_kept_in_sixteen_bits_where_these_hold_them():
    table = np.arange(-8, 8, dtype=np.float32)
    for scale, kept in ((halves, np.float16), (floats, np.float32)):
        assert assert_found(scaled(table, 64, 256, 32, scale), 4).scale.dtype == kept


def test_scales_may_be_negative_or_zero():
    table = np.arange(-8, 8, dtype=np.float32)
    values = scaled(table, 64, 256, 32, lambda rng, shape: -np.abs(halves(rng, shape)))
    values[3, 32:64] = 0
    assert_found(values, 4, groups=8)


def test_tables_of_rows_and_of_groups_of_inputs_are_found():
    tables = RNG.standard_normal((64, 16)).astype(np.float32)
    codes = RNG.integers(0, 16, (64, 512))
    assert_found(np.take_along_axis(tables, codes, 1), 4, tables=64)
    shared = tables[:32].repeat(2, 0)
    assert_found(np.take_along_axis(shared, codes, 1), 4, tables=32)
    parts = [table[RNG.integers(0, 16, (512, 64))] for table in tables[:32]]
    assert_found(np.concatenate(parts, axis=1), 4, tables=32, groups=32)


def test_weights_of_convolutions_keep_their_shape():
    table = RNG.standard_normal(4).astype(np.float32)
    found = assert_found(table[RNG.integers(0, 4, (16, 8, 5))], 2)
    assert found.indices.shape == (16, 8, 5)


def test_one_value_off_leaves_a_weight_in_float():
    table = np.arange(-8, 8, dtype=np.float32)
    values = scaled(table, 64, 256, 32, halves)
    values[40, 100] = np.nextafter(values[40, 100], np.float32(np.inf))
    assert find(values) is None


@pytest.mark.parametrize(
    "values",
    [
        RNG.standard_normal((200, 300)),
        RNG.standard_normal((16, 16)),
        RNG.standard_normal((64, 1)),
        np.full((32, 32), np.nan),
        np.where(np.arange(1024).reshape(32, 32) == 700, np.inf, 1.0),
        np.zeros((0, 8)),
        np.zeros(64),
    ],
)
def test_other_floats_stay_floats(values):
    assert find(values.astype(np.float32)) is None


def test_signs_of_zeros_make_no_value_of_their_own():
    values = np.where(RNG.random((32, 32)) < 0.5, np.float32(-0.0), np.float32(0.0))
    assert_found(values, 1)
