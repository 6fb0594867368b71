"""Dynamic int8 quantisation of a row of activations (the rule of ``ops.rounding.quantize_rows``).

The maximum is taken over the bit patterns of |x| as integers: the same order as the floats, but
NaN and infinity come out on top instead of getting lost, and the result is exact in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu import emit
from gq_tvm.schedules.cpu.vector_math import VectorMath

Expr = Any
Buffer = Any

_ABSOLUTE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_SMALLEST = (127 - 100) << 23  # 2^-100: smaller rows count as zero


@dataclass(frozen=True)
class Peak:
    """The largest magnitude of a row, and what it says about the row.

    Attributes:
        magnitude: float32, max|x|; NaN or infinity where the row has one.
        live: bool, whether the row is finite and large enough not to count as zero.
        finite: bool.
    """

    magnitude: Expr
    live: Expr
    finite: Expr

    @staticmethod
    def of(bits: Expr, lanes: int) -> Peak:
        """Emit the peak of a vector of ``magnitude_bits``."""
        highest = T.bind(reduce_int32("smax", bits, lanes))
        finite = T.bind(highest < T.int32(_INFINITY))
        live = T.bind(tirx.all(finite, highest >= T.int32(_SMALLEST)))
        return Peak(T.reinterpret("float32", highest), live, finite)

    def if_live(self, value: Expr, otherwise: Expr) -> Expr:
        """``value`` for a live row."""
        return tirx.Select(self.live, value, otherwise)

    def scale(self, value: Expr) -> Expr:
        """The row's scale: ``value`` if it is live, else 0, or NaN if it is not finite."""
        not_a_number = T.reinterpret("float32", T.int32(0x7FC00000))
        return self.if_live(value, tirx.Select(self.finite, T.float32(0), not_a_number))

    def int8(self) -> tuple[Expr, Expr]:
        """What values become int8 by, and what brings them back: ``127 / max``, ``max / 127``."""
        inverse = T.bind(self.if_live(T.float32(127) / self.magnitude, T.float32(0)))
        return inverse, self.scale(self.magnitude / T.float32(127))


def find_peak(load: Callable[[Expr, int], Expr], k: int, lanes: int) -> Peak:
    """Emit the search for the largest magnitude of ``k`` activations."""
    whole, rest = divmod(k, lanes)
    vector = emit.ramp(0, lanes)
    peak = T.alloc_buffer((lanes,), "int32")
    T.buffer_store(peak, emit.spread(T.int32(0), lanes), [vector])
    if whole:
        with T.serial(0, whole) as i:
            bits = magnitude_bits(load(i * lanes, lanes), lanes)
            T.buffer_store(peak, T.max(peak[vector], bits), [vector])
    for i in range(rest):
        bits = magnitude_bits(load(T.int32(whole * lanes + i), 1), 1)
        T.buffer_store(peak, T.max(peak[i], bits), [i])
    return Peak.of(peak[vector], lanes)


def magnitude_bits(x: Expr, lanes: int) -> Expr:
    """The bits of |x| as int32, in the order of the floats."""
    if lanes == 1:
        return T.bitwise_and(T.reinterpret("int32", x), _ABSOLUTE)
    mask = T.broadcast(T.int32(_ABSOLUTE), lanes)
    return T.bitwise_and(T.reinterpret(f"int32x{lanes}", x), mask)


def stage_int8(
    load: Callable[[Expr, int], Expr],
    k: int,
    math: VectorMath,
    row: Callable[[Expr, Expr], None],
    scale: Callable[[Expr], None],
    total: Callable[[Expr], None] | None,
) -> None:
    """Emit the quantisation of ``k`` activations.

    Args:
        load: ``load(k, lanes)`` reads float32 activations.
        k: Length of the row.
        math: Of the instruction set's vectors.
        row: ``row(k, values)`` stores int8 values (a vector or a scalar) from k on.
        scale: Takes the float32 scale of the row.
        total: Takes the int32 sum of the quantised row; None where no kernel needs it.
    """
    lanes, scalar = math.lanes, VectorMath(1, math.rounds)
    whole, rest = divmod(k, lanes)
    vector = emit.ramp(0, lanes)

    inverse, row_scale = find_peak(load, k, lanes).int8()
    scale(row_scale)

    sums = None
    if total is not None:
        sums = T.alloc_buffer((lanes,), "int32")
        T.buffer_store(sums, math.spread(T.int32(0)), [vector])
    if whole:
        with T.serial(0, whole) as i:
            scaled = load(i * lanes, lanes) * math.spread(inverse)
            integers = T.bind(math.to_int32(scaled))
            row(i * lanes, T.cast(integers, f"int8x{lanes}"))
            if sums is not None:
                T.buffer_store(sums, sums[vector] + integers, [vector])
    for i in range(rest):
        at = T.int32(whole * lanes + i)
        integer = T.bind(scalar.to_int32(load(at, 1) * inverse))
        row(at, T.cast(integer, "int8"))
        if sums is not None:
            T.buffer_store(sums, sums[i] + integer, [i])
    if total is not None and sums is not None:
        total(reduce_int32("add", sums[vector], lanes))


def reduce_int32(operation: str, vector: Expr, lanes: int) -> Expr:
    """Reduce a vector ``int32 [lanes]`` by LLVM's ``add``, ``or``, ``smax``, ..."""
    if lanes == 1:
        return vector
    return T.call_llvm_pure_intrin("int32", f"llvm.vector.reduce.{operation}.v{lanes}i32", vector)
