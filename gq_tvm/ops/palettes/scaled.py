"""Floats as one table times a scale for each row, or for each group of inputs.

Of a group only its values are known. Its largest magnitude is some entry of the table times the
scale, so each entry gives a scale to try; the product, rounded as ``Weight.expand`` rounds it, must
give back every value. A table that is not known is looked for where the largest magnitude is the
same entry in all groups, as where weights were divided by it first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops.palettes.known import TABLES
from gq_tvm.ops.weight import Weight

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

_SAMPLE = 64  # groups
_VALUES = 2**13  # of a sample
_CHUNK = 2**18  # values looked at together
_MOST = 256  # centroids
_NEAR = np.float32(2**-21)  # quotients that differ by no more are one entry's, rounded


def with_scales(flat: F32, size: int) -> Weight | None:
    """A weight [N, K] that is one table times scales, or None.

    Args:
        flat: Its values.
        size: Inputs that share a scale, 0 for all of a row.
    """
    rows, width = flat.shape
    size = size or width
    sample = _groups(flat[_spread(rows, _SAMPLE)], size)
    sample = sample[_spread(len(sample), min(_SAMPLE, max(4, _VALUES // size)))]
    if not np.isfinite(sample).all():
        return None
    held = [len(np.unique(group)) for group in sample]
    if max(held) > _MOST or (len(sample) == _SAMPLE and min(held) == size):
        return None  # too many values, or no value twice: floats that nobody quantised
    for table in (*TABLES, *_unknown(flat, size, sample)):
        order = _entries(sample, table) if max(held) <= len(table) else None
        found = None if order is None else _all_groups(flat, size, table, order)
        if found is not None:
            codes, scale = found
            codes = codes.reshape(rows, -1)[:, :width]
            return _weight(codes, table, scale.reshape(rows, -1))
    return None


def _weight(codes: U8, table: F32, scale: F32) -> Weight:
    """With no larger a table than is used, and scales in 16 bits where these hold them."""
    used = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=len(table)))
    if max(1, (len(used) - 1).bit_length()) < max(1, (len(table) - 1).bit_length()):
        places = np.zeros(len(table), np.uint8)
        places[used] = np.arange(len(used))
        codes, table = places[codes], table[used]
    bits = max(1, (len(table) - 1).bit_length())
    if scale.shape[1] == 1:
        scale = scale[:, 0]
    elif _in_half(scale).all():
        scale = scale.astype(np.float16)
    return Weight(
        np.ascontiguousarray(codes), np.pad(table, (0, 2**bits - len(table)))[None], scale
    )


def _groups(rows: F32, size: int) -> F32:
    """Rows [n, K] as groups [n * J, size]; a last one that is short repeats its last value."""
    short = -rows.shape[1] % size
    padded = np.pad(rows, ((0, 0), (0, short)), mode="edge") if short else rows
    return padded.reshape(-1, size)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` places of `count`, evenly."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def _largest(groups: F32) -> F32:
    """The value of the largest magnitude in each group, with its sign: [M, 1]."""
    places = np.abs(groups).argmax(axis=1)
    return np.take_along_axis(groups, places[:, None], axis=1)


def _fit(groups: F32, scale: F32, table: F32) -> tuple[U8, F32, NDArray[np.bool_]]:
    """Bring groups [M, g] to a table, given about what their scales [M, 1] are.

    Returns:
        The nearest entries; the scales [M, 1], those moved by a last place that were next to right;
        and which groups entries and scale give back exactly.
    """
    quotients = np.divide(groups, scale, out=np.zeros_like(groups), where=scale != 0)
    codes = np.searchsorted((table[1:] + table[:-1]) / 2, quotients).astype(np.uint8)
    entries = table[codes]
    products = entries * scale
    fits = (products == groups).all(axis=1)
    near = ~fits & (np.abs(products - groups) <= _NEAR * np.abs(groups)).all(axis=1)
    if near.any():
        scale = scale.copy()
        scale[near] = _between(groups[near], entries[near])
        fits[near] = (entries[near] * scale[near] == groups[near]).all(axis=1)
    return codes, scale, fits


def _between(values: F32, factors: F32) -> F32:
    """Of each row the float x [M, 1] that gives values [M, g] as products with factors, rounded.

    A value v = round(x * factor) says of x that it lies within half a last place of v, divided by
    the factor. What all values of a row say is met by the float in the middle, or by none.
    """
    half = np.spacing(np.abs(values)).astype(np.float64) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        edges = (values[None] + np.stack([-half, half])) / factors
    lower, upper = edges.min(axis=0), edges.max(axis=0)
    says = factors != 0
    least = np.where(says, lower, -np.inf).max(axis=1)
    most = np.where(says, upper, np.inf).min(axis=1)
    with np.errstate(invalid="ignore"):
        middle = ((least + most) / 2).astype(np.float32)
    return middle[:, None]


def _scales(largest: F32, entry: NDArray[np.float32] | np.float32) -> F32:
    """The scale of each group whose largest magnitude is an entry of the table."""
    with np.errstate(over="ignore", under="ignore"):
        scale = largest / entry
    return np.where(np.isfinite(scale), scale, np.float32(0))


def _entries(sample: F32, table: F32) -> list[np.float32] | None:
    """The entries that largest magnitudes may be, the commonest first; None if one is none."""
    entries = table[table != 0]
    counts = np.zeros(len(entries), np.int64)
    for group in sample:
        scale = _scales(_largest(group[None]), entries[:, None])
        fits = _fit(np.broadcast_to(group, (len(entries), len(group))), scale, table)[2]
        if not fits.any():
            return None
        counts += fits
    return list(entries[np.argsort(-counts, kind="stable")])


def _all_groups(flat: F32, size: int, table: F32, order: list[np.float32]) -> tuple[U8, F32] | None:
    """The codes [M, size] and scales [M] of all groups, or None if a group has none.

    Scales that 16 bits hold go first.
    """
    rows, width = flat.shape
    each = max(1, _CHUNK // max(1, width))
    all_codes, all_scales = [], []
    for first in range(0, rows, each):
        groups = _groups(flat[first : first + each], size)
        codes, scales = np.zeros(groups.shape, np.uint8), np.zeros(groups.shape[0], np.float32)
        largest, left = _largest(groups), np.arange(len(groups))
        for half in (True, False):
            for entry in order:
                scale = _scales(largest[left], entry)
                tried = _in_half(scale[:, 0]) if half else np.ones(len(left), bool)
                places = left[tried]
                found, scale, fits = _fit(groups[places], scale[tried], table)
                codes[places[fits]], scales[places[fits]] = found[fits], scale[fits, 0]
                left = np.setdiff1d(left, places[fits], assume_unique=True)
                if not len(left):
                    break
        if len(left):
            return None
        all_codes.append(codes)
        all_scales.append(scales)
    return np.concatenate(all_codes), np.concatenate(all_scales)


def _in_half(values: F32) -> NDArray[np.bool_]:
    """Which values a float of 16 bits holds."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(np.float16).astype(np.float32) == values


def _unknown(flat: F32, size: int, sample: F32) -> list[F32]:
    """Tables of which each group's largest magnitude is the entry 1, or 1 or -1."""
    found = []
    for signed in (False, True):
        first = _quotients(sample, signed)
        if 4 * len(_clusters(first)) > first.size or len(_clusters(first)) > _MOST:
            continue
        table = _table_of(flat, size, signed)
        if table is not None:
            found.append(table)
    return found


def _quotients(groups: F32, signed: bool) -> F32:
    largest = _largest(groups)
    largest = largest if signed else np.abs(largest)
    return np.divide(groups, largest, out=np.zeros_like(groups), where=largest != 0)


def _clusters(quotients: F32) -> F32:
    """The least of the quotients that lie together, rising."""
    rising = np.unique(quotients)
    apart = np.diff(rising) > _NEAR * np.maximum(np.abs(rising[1:]), np.float32(2**-10))
    return rising[np.concatenate([[True], apart])]


def _table_of(flat: F32, size: int, signed: bool) -> F32 | None:
    """The entries that give back the values of all groups, where there are at most 256.

    A value v = round(entry * scale) says of the entry that it lies within half a last place of v,
    divided by the scale. What all values say is met by the float in the middle.
    """
    rows, width = flat.shape
    each = max(1, _CHUNK // max(1, width))
    chunks = [_groups(flat[at : at + each], size) for at in range(0, rows, each)]
    starts = np.zeros(0, np.float32)
    for groups in chunks:
        if not np.isfinite(groups).all():
            return None
        starts = _clusters(np.concatenate([starts, _quotients(groups, signed).reshape(-1)]))
        if len(starts) > _MOST:
            return None
    least, most = np.full(len(starts), -np.inf), np.full(len(starts), np.inf)
    for groups in chunks:
        largest = _largest(groups)
        scale = np.broadcast_to(largest if signed else np.abs(largest), groups.shape)
        alive = scale != 0
        v, s = groups[alive].astype(np.float64), scale[alive].astype(np.float64)
        half = np.spacing(np.abs(groups[alive])).astype(np.float64) / 2
        lower, upper = np.sort([(v - half) / s, (v + half) / s], axis=0)
        places = np.searchsorted(starts, _quotients(groups, signed)[alive], side="right") - 1
        np.maximum.at(least, places, lower)
        np.minimum.at(most, places, upper)
    table = ((least + most) / 2).astype(np.float32)
    table = np.unique(table[np.isfinite(table)])
    return table if len(table) else None
