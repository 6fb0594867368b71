"""Weights on uniform grids as ONNX Runtime's MatMulNBits, where its floats are the same.

Its weights are ``scale * (index - zero)``, zero a whole number, in blocks of inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gq_tvm.onnx_functions import pack
from gq_tvm.ops.weight import Weight

_BITS = (2, 4, 8)
_LONGEST_BLOCK = 128


class Blocks(NamedTuple):
    """What MatMulNBits takes.

    Attributes:
        data: u8 [N, blocks, bytes].
        scales: f32 [N * blocks].
        zeros: u8, rows of packed zero points one after the other.
        attributes: K, N, bits and block_size.
    """

    data: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]
    attributes: dict[str, Any]

    @property
    def arrays(self) -> tuple[NDArray, NDArray, NDArray]:
        """Data, scales and zero points."""
        return self.data, self.scales, self.zeros


def blocks_of(weight: Weight) -> Blocks | None:
    """A weight [N, K] in blocks; None if it is not the same in them to the last bit."""
    if weight.bits not in _BITS or weight.codebook.shape[-2] > 1 or weight.outliers is not None:
        return None
    bits, count = weight.bits, 2**weight.bits
    table = weight.codebook.reshape(-1)
    step = np.float32((np.float64(table[-1]) - table[0]) / (count - 1))
    if not step or not np.isfinite(step):
        return None
    spread = (weight.rows, weight.groups)
    scale, zero = (
        np.broadcast_to(one.astype(np.float32).reshape(len(one), -1), spread)
        for one in (weight.scale, weight.zero if weight.zero is not None else np.zeros(1))
    )
    first = np.rint((zero - table[0]) / step)
    if first.min() < 0 or first.max() >= count:
        return None
    ours = scale[..., None] * (table - zero[..., None])
    steps = (scale * step)[..., None]
    if not np.array_equal(ours, steps * (np.arange(count, dtype=np.float32) - first[..., None])):
        return None
    block = weight.group or min(_LONGEST_BLOCK, max(16, 1 << (weight.width - 1).bit_length()))
    blocks = -(-weight.width // block)
    codes = np.pad(weight.indices, ((0, 0), (0, blocks * block - weight.width)))
    steps = np.broadcast_to(steps[..., 0], (weight.rows, blocks))
    first = np.broadcast_to(first, (weight.rows, blocks)).astype(np.uint8)
    first = np.pad(first, ((0, 0), (0, -blocks % (8 // bits))))
    return Blocks(
        pack(codes, bits).reshape(weight.rows, blocks, -1),
        np.ascontiguousarray(steps).reshape(-1),
        pack(first, bits)[: first.size * bits // 8],
        {"K": weight.width, "N": weight.rows, "bits": bits, "block_size": block},
    )
