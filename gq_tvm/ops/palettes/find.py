"""Find the codebook that a float weight is, if it is one.

Others quantise a weight and hand on floats: palettes of Core ML, NNCF and DKM, NF4 of bitsandbytes,
blocks of GGUF, all after their own dequantisation. Such a weight holds few values, or few values
times a scale for each row or group. What is found here is the weight, not near it: what
``Weight.expand`` gives of it equals the floats, every one (a zero's sign, which no sum shows, is
not told apart).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops.checks import GROUPS
from gq_tvm.ops.palettes.scaled import with_scales
from gq_tvm.ops.palettes.tables import codes_in, distinct, one_table
from gq_tvm.ops.weight import Weight

F32 = NDArray[np.float32]

#: [C] What a codebook must save of a weight's floats: half. Less is chance, as in any small weight.
_SHARE = 2
_FEW = 4  # bits; with as many a single table is taken without looking for scales
_GROUPS = GROUPS[::-1]  # the fewest scales first


def find(values: F32) -> Weight | None:
    """The codebook a weight is, or None.

    It is quick to say no: a weight of many values shows that in a small part of it.

    Args:
        values: f32 [N, ...], of a convolution [N, C / groups, k].

    Returns:
        Its indices have the shape of the values. Of one table, one table with scales, and several
        tables (which only the slowest kernel takes) the smallest, but several only where neither
        of the others is there; None if none takes half the bytes of the floats or less.
    """
    if values.ndim < 2 or not values.size or values.dtype != np.float32:
        return None
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    found = [one for one in _candidates(flat) if one.bytes * _SHARE <= flat.nbytes]
    if not found:
        return None
    best = min(found, key=lambda one: one.bytes)
    indices = best.indices.reshape(values.shape)
    return Weight(indices, best.codebook, best.scale)


def _candidates(flat: F32) -> Iterator[Weight]:
    single = one_table(flat)
    if single is not None:
        yield single
        if single.bits <= _FEW:
            return
    scaled = with_scales(flat, 0)
    for size in _GROUPS:
        if scaled is None and size < flat.shape[1]:
            scaled = with_scales(flat, size)
    if scaled is not None:
        yield scaled
    elif single is None:
        yield from _several(flat)


def _several(flat: F32) -> Iterator[Weight]:
    """Tables that share out the rows, and tables of groups of inputs."""
    rows, width = flat.shape
    for count in range(2, rows + 1):
        if rows % count == 0:
            parts = list(flat.reshape(count, -1, width))
            tables = _tables_of(parts)
            if tables is not None:
                codes = np.concatenate(list(map(codes_in, parts, tables)))
                yield _weight(codes, tables, rows=True)
    for size in (one for one in _GROUPS if one < width):
        parts = [flat[:, at : at + size] for at in range(0, width, size)]
        tables = _tables_of(parts)
        if tables is not None:
            codes = np.concatenate(list(map(codes_in, parts, tables)), axis=1)
            yield _weight(codes, tables, rows=False)


def _tables_of(parts: list[F32]) -> list[F32] | None:
    """What each part holds; None if one holds more than a table can, or tables are no gain."""
    tables: list[F32] = []
    for part in parts:
        table = distinct(part)
        if table is None or table.nbytes * _SHARE > part.nbytes:
            return None
        tables.append(table)
    return tables


def _weight(codes: NDArray[np.uint8], tables: list[F32], rows: bool) -> Weight:
    bits = max(1, (max(map(len, tables)) - 1).bit_length())
    padded = np.stack([np.pad(table, (0, 2**bits - len(table))) for table in tables])
    return Weight(codes, padded if rows else padded[None], np.ones(1, np.float32))
