"""How codebook indices lie in memory for the vector kernels: exactly ``bits`` bits a weight.

A *tile* is ``vectors * lanes`` outputs. Along K it is cut into *units* of 8 sub-vectors; a
sub-vector holds the indices of ``lanes`` outputs x 4 consecutive k, a byte each. The bits of an
index are split into planes of 4, 2 and 1 bits (3 = 2 + 1, 7 = 4 + 2 + 1, ...), and a plane of
``w`` bits packs the 8 sub-vectors into ``w`` vectors: shift and mask bring any of them back, with
no move across lanes, on every instruction set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SUBVECTORS = 8

#: bits -> widths of its planes, lowest bits first.
PLANES = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}


@dataclass(frozen=True)
class Field:
    """Where a plane keeps its part of a sub-vector.

    Attributes:
        vector: Vector of the unit.
        shift: Lowest bit of the field inside each byte.
        position: Lowest bit of the field inside the index.
        width: Bits of the field.
    """

    vector: int
    shift: int
    position: int
    width: int


def fields(bits: int, subvector: int) -> list[Field]:
    """Return the fields that together hold the indices of a sub-vector, lowest bits first."""
    found = []
    first_vector = position = 0
    for width in PLANES[bits]:
        share = SUBVECTORS // width
        found.append(
            Field(
                vector=first_vector + subvector // share,
                shift=subvector % share * width,
                position=position,
                width=width,
            )
        )
        first_vector += width
        position += width
    return found


@dataclass(frozen=True)
class TileLayout:
    """The packed form of a weight matrix for one instruction set.

    Attributes:
        bits: Bits of an index, 1..8.
        lanes: 32-bit lanes of a vector.
        vectors: Output vectors of a tile; must divide 8.
        order: Bytes of a sub-vector: ``"output"`` puts (n, k) at ``n * 4 + k``, ``"depth"`` at
            ``k * lanes + n``.
    """

    bits: int
    lanes: int
    vectors: int = 4
    order: str = "output"

    @property
    def outputs(self) -> int:
        """Outputs of a tile."""
        return self.vectors * self.lanes

    @property
    def groups(self) -> int:
        """Groups of 4 k in a unit."""
        return SUBVECTORS // self.vectors

    @property
    def depth(self) -> int:
        """K covered by a unit."""
        return 4 * self.groups

    def shape(self, n: int, k: int) -> tuple[int, int, int, int]:
        """Shape of the packed ``uint8`` array: tiles, units, vectors of a unit, bytes."""
        return -(-n // self.outputs), -(-k // self.depth), self.bits, 4 * self.lanes

    def pack(self, indices: np.ndarray) -> np.ndarray:
        """Pack ``uint8 [N, K]`` (values below ``2^bits``) into ``uint8`` of ``shape(N, K)``.

        N and K are padded with index 0: padded k meet activations that are zero, and padded
        outputs are never stored.
        """
        n, k = indices.shape
        tiles, units, _, size = self.shape(n, k)
        padded = np.zeros((tiles * self.outputs, units * self.depth), np.uint8)
        padded[:n, :k] = indices
        # [tile, vector, lane, unit, group, k] -> [tile, unit, group, vector, lane, k]
        parts = padded.reshape(tiles, self.vectors, self.lanes, units, self.groups, 4)
        axes = (0, 3, 4, 1, 2, 5) if self.order == "output" else (0, 3, 4, 1, 5, 2)
        subvectors = parts.transpose(axes).reshape(tiles, units, SUBVECTORS, size)
        packed = np.zeros(self.shape(n, k), np.uint8)
        for subvector in range(SUBVECTORS):
            for field in fields(self.bits, subvector):
                part = subvectors[:, :, subvector] >> field.position & (1 << field.width) - 1
                packed[:, :, field.vector] |= part << field.shift
        return packed

    def unpack(self, packed: np.ndarray, n: int, k: int) -> np.ndarray:
        """Return the ``uint8 [n, k]`` indices of a packed array: the inverse of ``pack``."""
        tiles, units, _, _ = packed.shape
        subvectors = np.zeros((tiles, units, SUBVECTORS, 4 * self.lanes), np.uint8)
        for subvector in range(SUBVECTORS):
            for field in fields(self.bits, subvector):
                part = packed[:, :, field.vector] >> field.shift & (1 << field.width) - 1
                subvectors[:, :, subvector] |= part << field.position
        inner = (self.lanes, 4) if self.order == "output" else (4, self.lanes)
        parts = subvectors.reshape(tiles, units, self.groups, self.vectors, *inner)
        axes = (0, 3, 4, 1, 2, 5) if self.order == "output" else (0, 3, 5, 1, 2, 4)
        whole = parts.transpose(axes).reshape(tiles * self.outputs, units * self.depth)
        return whole[:n, :k]


def whole_lines(table: np.ndarray) -> np.ndarray:
    """Pad a table to whole 64-byte lines: what vectors are read from it stays inside it."""
    return np.pad(table, (0, -len(table) % (64 // table.itemsize)))
