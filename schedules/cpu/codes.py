"""Where the bits of a codebook index lie among the packed vectors, and how they are brought back.

A unit packs 8 *sub-vectors* of indices, a byte each, into ``bits`` vectors. A ``Code`` says of one
sub-vector how shifts and masks turn those vectors into bytes a look-up can take, and which bits of
such a byte are the index. What the packer does follows from it; so does a test's proof that no bit
is kept twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SUBVECTORS = 8


@dataclass(frozen=True)
class Piece:
    """Bits taken from one packed vector: ``(vector >> shift) & mask``, byte by byte.

    Attributes:
        vector: Vector of the unit.
        shift: How far right its bytes move (left if negative).
        mask: The bits that count after the shift.
    """

    vector: int
    shift: int
    mask: int

    @property
    def before(self) -> int:
        """The bits that count before the shift.

        Those it pushes out are as they are after it: codes which differ by a shift alone then join
        their pieces alike, and once.
        """
        pushed_out = (1 << max(0, self.shift)) - 1
        return (self.mask << self.shift if self.shift > 0 else self.mask >> -self.shift) & 0xFF | (
            self.mask & pushed_out
        )


@dataclass(frozen=True)
class Code:
    """How the indices of a sub-vector are brought into one vector, a byte each.

    Attributes:
        pieces: What is joined; their masks do not overlap. Bits outside of all masks are undefined.
        reads: Bit b of the index is bit ``reads[b]`` of the byte.
    """

    pieces: tuple[Piece, ...]
    reads: tuple[int, ...]

    def places(self) -> list[tuple[int, int]]:
        """Return (vector, bit of its bytes) for each bit of the index, lowest first."""
        return [
            next((p.vector, bit + p.shift) for p in self.pieces if p.mask >> bit & 1)
            for bit in self.reads
        ]


# bits -> widths of the planes an index is split into, lowest bits first.
_PLANES = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}


def planes(bits: int) -> Sequence[Code]:
    """Codes whose bytes hold the index in their lowest bits, for any instruction set.

    The index is split into planes of 4, 2 and 1 bits; a plane of w bits packs the 8 sub-vectors
    into w vectors, ``8 / w`` in each byte.
    """
    return [
        Code(tuple(_pieces(bits, subvector)), tuple(range(bits))) for subvector in range(SUBVECTORS)
    ]


def _pieces(bits: int, subvector: int) -> list[Piece]:
    pieces = []
    vector = position = 0
    for width in _PLANES[bits]:
        share = SUBVECTORS // width
        right = subvector % share * width - position
        pieces.append(Piece(vector + subvector // share, right, ((1 << width) - 1) << position))
        vector += width
        position += width
    return pieces


def direct(vector: int, *reads: int) -> Code:
    """A code that reads bits of a packed vector where they lie."""
    return moved(vector, 0, *reads)


def moved(vector: int, shift: int, *reads: int) -> Code:
    """A code that reads bits of one packed vector after a shift to the right."""
    return Code((Piece(vector, shift, sum(1 << bit for bit in reads)),), reads)
