"""How codebook indices lie in memory for the vector kernels: exactly ``bits`` bits a weight.

A *tile* is ``vectors * lanes`` outputs. Along K it is cut into *units* of 8 sub-vectors; a
sub-vector holds the indices of ``lanes`` outputs x 4 consecutive k, a byte each. The 8 sub-vectors
share ``bits`` vectors as their codes say: shift and mask bring any of them back, with no move
across lanes, on every instruction set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gq_tvm.schedules.cpu.codes import SUBVECTORS, Code


@dataclass(frozen=True)
class TileLayout:
    """The packed form of a weight matrix for one instruction set.

    Attributes:
        bits: Bits of an index, 1..8.
        lanes: 32-bit lanes of a vector.
        codes: Of the 8 sub-vectors of a unit.
        vectors: Output vectors of a tile; must divide 8.
        order: Bytes of a sub-vector: ``"output"`` puts (n, k) at ``n * 4 + k``, ``"depth"`` at
            ``k * lanes + n``, ``"quarter"`` at ``n // 4 * 16 + k * 4 + n % 4``. ``"octet"`` shares
            the 8 k of two groups out by halves of the outputs, (n, k) at ``n * 8 + k`` of a half.
    """

    bits: int
    lanes: int
    codes: Sequence[Code]
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

    @property
    def _from_pairs(self) -> np.ndarray:
        """Which (n, k), counted ``n * 4 + k``, each byte of a sub-vector holds."""
        pairs = np.arange(4 * self.lanes)
        if self.order in ("output", "octet"):
            return pairs
        quarter = self.lanes if self.order == "depth" else 4
        return pairs.reshape(-1, quarter, 4).transpose(0, 2, 1).reshape(-1)

    @property
    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes that the lanes of a vector and the k of a unit are made of."""
        if self.order == "octet":
            return (2, self.lanes // 2), (self.groups // 2, 8)
        return (self.lanes,), (self.groups, 4)

    @property
    def _to_subvectors(self) -> tuple[int, ...]:
        """From [tile, vector, lanes.., unit, k..] to [tile, unit, sub-vector.., lanes x k]."""
        if self.order == "octet":  # ... pair of groups, half, vector, lane of a half, k
            return (0, 4, 5, 2, 1, 3, 6)
        return (0, 3, 4, 1, 2, 5)

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
        parts = padded.reshape(tiles, self.vectors, *self._axes[0], units, *self._axes[1])
        subvectors = parts.transpose(self._to_subvectors).reshape(tiles, units, SUBVECTORS, size)
        subvectors = subvectors[..., self._from_pairs]
        packed = np.zeros(self.shape(n, k), np.uint8)
        for subvector, code in enumerate(self.codes):
            for bit, (vector, place) in enumerate(code.places()):
                packed[:, :, vector] |= (subvectors[:, :, subvector] >> bit & 1) << place
        return packed

    def unpack(self, packed: np.ndarray, n: int, k: int) -> np.ndarray:
        """Return the ``uint8 [n, k]`` indices of a packed array: the inverse of ``pack``."""
        tiles, units, _, _ = packed.shape
        subvectors = np.zeros((tiles, units, SUBVECTORS, 4 * self.lanes), np.uint8)
        for subvector, code in enumerate(self.codes):
            for bit, (vector, place) in enumerate(code.places()):
                subvectors[:, :, subvector] |= (packed[:, :, vector] >> place & 1) << bit
        pairs = np.empty_like(subvectors)
        pairs[..., self._from_pairs] = subvectors
        shape = (tiles, self.vectors, *self._axes[0], units, *self._axes[1])
        parts = pairs.reshape([shape[axis] for axis in self._to_subvectors])
        back = np.argsort(self._to_subvectors)
        whole = parts.transpose(back).reshape(tiles * self.outputs, units * self.depth)
        return whole[:n, :k]


def whole_lines(table: np.ndarray) -> np.ndarray:
    """Pad a table to whole 64-byte lines: what vectors are read from it stays inside it."""
    return np.pad(table, (0, -len(table) % (64 // table.itemsize)))
