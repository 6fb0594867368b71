from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gq_tvm.schedules.layout import PLANES, SUBVECTORS, TileLayout, fields


@given(
    bits=st.integers(1, 8),
    lanes=st.sampled_from([4, 8, 16]),
    vectors=st.sampled_from([1, 2, 4, 8]),
    order=st.sampled_from(["output", "depth"]),
    n=st.integers(1, 150),
    k=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_unpack_undoes_pack(bits, lanes, vectors, order, n, k, seed):
    indices = np.random.default_rng(seed).integers(0, 2**bits, (n, k)).astype(np.uint8)
    layout = TileLayout(bits, lanes, vectors, order)
    assert (layout.unpack(layout.pack(indices), n, k) == indices).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_weight_takes_exactly_its_bits(bits):
    layout = TileLayout(bits, lanes=16)
    packed = layout.pack(np.zeros((layout.outputs * 3, layout.depth * 5), np.uint8))
    assert packed.nbytes * 8 == bits * layout.outputs * 3 * layout.depth * 5


@pytest.mark.parametrize("bits", range(1, 9))
def test_fields_cover_every_bit_of_a_unit_once(bits):
    """Proof by enumeration: 8 sub-vectors of n bits fill n bytes, no bit twice."""
    taken = [
        (field.vector, field.shift + bit)
        for subvector in range(SUBVECTORS)
        for field in fields(bits, subvector)
        for bit in range(field.width)
    ]
    assert sorted(taken) == [(vector, bit) for vector in range(bits) for bit in range(8)]
    assert sum(PLANES[bits]) == bits


@pytest.mark.parametrize("bits", range(1, 9))
def test_fields_stay_inside_their_byte(bits):
    """What lets x86 move them with 16-bit shifts."""
    for subvector in range(SUBVECTORS):
        for field in fields(bits, subvector):
            assert field.shift + field.width <= 8
            assert field.position + field.width <= 8
