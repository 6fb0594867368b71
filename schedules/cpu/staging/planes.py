"""Dynamic quantisation of a row to 1 or 2 bits, as bit planes (``ops.reference``).

A level is a sum of signs: +-1 = a for ``"int1"``; +-1, +-3 = 2 a - b for ``"int2"``, where b is a
turned round beyond two steps. A plane keeps a bit for each element, 1 for the sign -1, so that what
pads a row, zeros, has the bits 0 in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.ops.rounding import INT2_STEP, MEAN_STEPS
from gq_tvm.schedules.cpu import emit
from gq_tvm.schedules.cpu.staging.int8 import Peak, find_peak, magnitude_bits, reduce_int32
from gq_tvm.schedules.cpu.vector_math import VectorMath

Expr = Any
Buffer = Any

WORD = 32  # elements whose bits make one int32, the first in the lowest bit

#: What each plane of a kind of activations is multiplied by.
PLANE_WEIGHTS = {"int1": (1,), "int2": (2, -1)}


def stage_planes(
    load: Callable[[Expr, int], Expr],
    k: int,
    math: VectorMath,
    activation: str,
    word: Callable[[int, Expr, Expr], None],
    scale: Callable[[Expr], None],
) -> None:
    """Emit the quantisation of ``k`` activations.

    Args:
        load: ``load(k, lanes)`` reads float32 activations.
        k: Length of the row.
        math: Of the instruction set's vectors.
        activation: ``"int1"`` or ``"int2"``.
        word: ``word(plane, i, bits)`` stores the int32 of elements ``32 i`` to ``32 i + 31``.
        scale: Takes the float32 scale of the row.
    """
    lanes = math.lanes
    threshold = _threshold(load, k, math, activation, scale)

    def words(at: Expr, read: Callable[[int], Expr]) -> None:
        for plane, bits in enumerate(_planes(read, lanes, threshold)):
            word(plane, at, bits)

    whole, rest = divmod(k, WORD)
    if whole:
        with T.serial(0, whole) as i:
            words(i, lambda first: load(i * WORD + first, lanes))
    if rest:
        edge = T.alloc_buffer((WORD,), "float32")
        for first in range(0, WORD, lanes):
            zeros = T.broadcast(T.float32(0), lanes)
            T.buffer_store(edge, zeros, [T.ramp(first, 1, lanes)])
        with T.serial(0, rest) as j:
            T.buffer_store(edge, load(whole * WORD + j, 1), [j])
        words(T.int32(whole), lambda first: edge[T.ramp(first, 1, lanes)])


def stage_levels(
    load: Callable[[Expr, int], Expr],
    k: int,
    activation: str,
    row: Callable[[Expr, Expr], None],
    scale: Callable[[Expr], None],
) -> None:
    """Emit the quantisation of ``k`` activations one by one: ``row(k, value)`` stores an int8."""
    threshold = _threshold(load, k, VectorMath(1, rounds=False), activation, scale)
    with T.serial(0, k) as i:
        x = T.bind(load(i, 1))
        level = tirx.Select(x < T.float32(0), T.int8(-1), T.int8(1))
        if threshold is not None:
            beyond = _magnitude(x, 1) > threshold
            level = level * tirx.Select(beyond, T.int8(3), T.int8(1))
        row(i, level)


def _threshold(
    load: Callable[[Expr, int], Expr],
    k: int,
    math: VectorMath,
    activation: str,
    scale: Callable[[Expr], None],
) -> Expr | None:
    """Emit a row's scale; beyond what is returned a level is 3, if there are such levels."""
    peak = find_peak(load, k, math.lanes)
    step = _mean(load, k, math, peak)
    if activation == "int2":
        step = step * T.float32(INT2_STEP)
    # Kept in memory: TVM's simplifier would put the choice it comes from into every comparison.
    kept = T.alloc_buffer((1,), "float32")
    T.buffer_store(kept, peak.scale(step), [0])
    scale(kept[0])
    return T.bind(kept[0] + kept[0]) if activation == "int2" else None


def _mean(load: Callable[[Expr, int], Expr], k: int, math: VectorMath, peak: Peak) -> Expr:
    """The mean magnitude of a live row (``rounding.mean_magnitudes``)."""
    lanes, scalar = math.lanes, VectorMath(1, math.rounds)
    whole, rest = divmod(k, lanes)
    vector = emit.ramp(0, lanes)
    inverse = T.bind(peak.if_live(T.float32(MEAN_STEPS) / peak.magnitude, T.float32(0)))
    sums = T.alloc_buffer((lanes,), "int32")
    T.buffer_store(sums, emit.spread(T.int32(0), lanes), [vector])
    if whole:
        with T.serial(0, whole) as i:
            steps = _magnitude(load(i * lanes, lanes), lanes) * emit.spread(inverse, lanes)
            T.buffer_store(sums, sums[vector] + math.to_int32(steps), [vector])
    for i in range(rest):
        value = _magnitude(load(T.int32(whole * lanes + i), 1), 1) * inverse
        T.buffer_store(sums, sums[i] + scalar.to_int32(value), [i])
    total = T.cast(reduce_int32("add", sums[vector], lanes), "float32")
    return (peak.magnitude / T.float32(MEAN_STEPS)) * (total / T.float32(k))


def _planes(read: Callable[[int], Expr], lanes: int, threshold: Expr | None) -> list[Expr]:
    """The words of 32 elements; ``read(first)`` gives ``lanes`` of them, from ``first`` on."""
    signs = outer = T.broadcast(T.int32(0), lanes)
    for first in range(0, WORD, lanes):
        x = T.bind(read(first))
        place = T.shift_left(T.broadcast(T.int32(1), lanes), T.ramp(first, 1, lanes))
        signs = T.bitwise_or(signs, _where(x < emit.spread(T.float32(0), lanes), place, lanes))
        if threshold is not None:
            beyond = _magnitude(x, lanes) > emit.spread(threshold, lanes)
            outer = T.bitwise_or(outer, _where(beyond, place, lanes))
    negative = T.bind(reduce_int32("or", signs, lanes))
    if threshold is None:
        return [negative]
    return [negative, T.bitwise_xor(negative, reduce_int32("or", outer, lanes))]


def _where(condition: Expr, place: Expr, lanes: int) -> Expr:
    return tirx.Select(condition, place, T.broadcast(T.int32(0), lanes))


def _magnitude(x: Expr, lanes: int) -> Expr:
    dtype = "float32" if lanes == 1 else f"float32x{lanes}"
    return T.reinterpret(dtype, magnitude_bits(x, lanes))
