"""Weights in codebooks from what constants are computed to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops import palettes
from gq_tvm.ops.checks import GROUPS
from gq_tvm.ops.weight import Weight
from gq_tvm.passes.relax_tools.constants import Known, LookUp

F32 = NDArray[np.float32]

_MOST = 256  # centroids: an index is a byte


def weight_in(known: Known, activation: str) -> Weight | None:
    """The weight [N, ...] that a look-up spells, or that its values are; None if it is in float."""
    if known.ndim < 2 if isinstance(known, np.ndarray) else known.codes.ndim < 2:
        return None
    if not isinstance(known, LookUp):
        return palettes.find(known)
    return _spelled(known, activation) or palettes.find(known.values())


def _spelled(found: LookUp, activation: str) -> Weight | None:
    if found.tables.dtype != np.float32 or not found.codes.size:
        return None
    shape = found.codes.shape
    flat = found.reshaped(lambda array: array.reshape(shape[0], -1))
    table = _tables(flat)
    scale, zero = (_shared(one, flat.codes.shape) for one in (flat.scale, flat.zero))
    if table is None or scale is None or zero is None:
        return None
    tables, codes = table
    bits = max(1, (tables.shape[-1] - 1).bit_length())
    missing = 2**bits - tables.shape[-1]
    tables = np.pad(tables, [(0, 0)] * (tables.ndim - 1) + [(0, missing)])
    codes = codes.astype(np.uint8).reshape(shape)
    if tables.ndim == 3 and scale.ndim == 2 and scale.shape[1] != tables.shape[1]:
        return None
    if flat.zero is None or not zero.any():
        if flat.scale is not None:
            return Weight(codes, tables, _small(scale))
        if tables.ndim == 2:
            return Weight.from_tables(codes, tables, activation)
        return Weight(codes, tables, np.ones(1, np.float32))
    if flat.scale is None:
        scale = np.ones(1, np.float32)
    groups = {one.shape[1] for one in (scale, zero) if one.ndim == 2}
    if len(groups) > 1:
        return None
    wider = max((scale, zero), key=lambda one: (one.ndim, one.size)).shape
    return Weight(codes, tables, _small(_spread(scale, wider)), _small(_spread(zero, wider)))


def _tables(found: LookUp) -> tuple[F32, NDArray] | None:
    """The tables that rows or groups of inputs have, and the codes [N, K] into them."""
    tables, codes = found.tables, found.codes
    size = tables.shape[1]
    if len(tables) > 1:
        which = codes // size
        first, last = int(which.min()), int(which.max())
        if first == last:
            tables = tables[first : first + 1]
        elif (which == which[:, :1]).all():
            tables = tables[which[:, 0]]
        else:
            groups = _groups_of(which) if (which == which[:1]).all() else None
            if groups is None:
                return None
            tables = tables[groups[0]][None]
        codes = codes % size
    return (tables, codes) if size <= _MOST else None


def _shared(array: F32 | None, shape: tuple[int, ...]) -> F32 | None:
    """Factors or summands [N, K] as those [1], [N] or [N, J] of the tensor, its rows or groups.

    Nothing is 0: [1].
    """
    if array is None:
        return np.zeros(1, np.float32)
    array = np.broadcast_to(array, shape)
    if (array == array[:1, :1]).all():
        return array[0, :1].copy()
    if (array == array[:, :1]).all():
        return array[:, 0].copy()
    return _groups_of(array)


def _groups_of(array: NDArray) -> NDArray | None:
    """Values [N, K] that are alike in groups of inputs, as [N, J]."""
    width = array.shape[1]
    for size in sorted(GROUPS, reverse=True):
        starts = array[:, ::size]
        if size < width and (starts.repeat(size, 1)[:, :width] == array).all():
            return np.ascontiguousarray(starts)
    return None


def _spread(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Values [1], [N] or [N, J] in a wider one of these shapes."""
    column = array[:, None] if array.ndim < len(shape) else array
    return np.ascontiguousarray(np.broadcast_to(column, shape))


def _small(array: F32) -> NDArray:
    """Scales or zero points of groups in fewer bits, where these hold them."""
    if array.ndim < 2:
        return array
    if ((array >= 0) & (array <= 255) & (array == np.floor(array))).all():
        return array.astype(np.uint8)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
