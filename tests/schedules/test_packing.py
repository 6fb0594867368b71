from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gq_tvm.schedules.cpu.codes import SUBVECTORS, planes
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS
from gq_tvm.schedules.cpu.layout import TileLayout

#: The codes of every instruction set, and the planes that fp32 look-ups and 8 bits use.
CODES = {"planes": planes} | {
    name: lambda bits, isa=isa: isa.codes(bits) if bits < 8 else planes(bits)
    for name, isa in INSTRUCTION_SETS.items()
}


@given(
    bits=st.integers(1, 8),
    lanes=st.sampled_from([4, 8, 16]),
    vectors=st.sampled_from([1, 2, 4, 8]),
    order=st.sampled_from(["output", "depth", "quarter", "octet"]),
    codes=st.sampled_from(list(CODES)),
    n=st.integers(1, 150),
    k=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_unpack_undoes_pack(bits, lanes, vectors, order, codes, n, k, seed):
    indices = np.random.default_rng(seed).integers(0, 2**bits, (n, k)).astype(np.uint8)
    assume(order != "octet" or vectors <= 4)  # of one group there are no halves
    layout = TileLayout(bits, lanes, CODES[codes](bits), vectors, order)
    assert (layout.unpack(layout.pack(indices), n, k) == indices).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_weight_takes_exactly_its_bits(bits):
    layout = TileLayout(bits, 16, planes(bits))
    packed = layout.pack(np.zeros((layout.outputs * 3, layout.depth * 5), np.uint8))
    assert packed.nbytes * 8 == bits * layout.outputs * 3 * layout.depth * 5


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_cover_every_bit_of_a_unit_once(bits, codes):
    """Proof by enumeration: 8 sub-vectors of n bits fill n bytes, no bit twice."""
    made = CODES[codes](bits)
    taken = [place for code in made for place in code.places()]
    assert len(made) == SUBVECTORS
    assert sorted(taken) == [(vector, bit) for vector in range(bits) for bit in range(8)]


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_code_finds_its_bits(bits, codes):
    """Shifting and masking as ``unpack`` emits it, on bytes with every other bit set."""
    for code in CODES[codes](bits):
        assert len(code.reads) == bits
        assert sum(p.mask for p in code.pieces) == np.bitwise_or.reduce(
            [p.mask for p in code.pieces]
        )
        for index in range(2**bits):
            vectors = [0] * bits
            for bit, (vector, place) in enumerate(code.places()):
                vectors[vector] |= (index >> bit & 1) << place
            looked_up = 0
            for p in code.pieces:
                moved = (
                    vectors[p.vector] >> p.shift if p.shift > 0 else vectors[p.vector] << -p.shift
                )
                looked_up |= moved & p.mask
            assert sum((looked_up >> at & 1) << bit for bit, at in enumerate(code.reads)) == index


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_pieces_stay_inside_their_byte(bits, codes):
    """What lets x86 move them with 16-bit shifts."""
    for code in CODES[codes](bits):
        for _, place in code.places():
            assert 0 <= place < 8
