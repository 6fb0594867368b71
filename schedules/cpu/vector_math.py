"""Activation functions on fp32 vectors and scalars, in plain arithmetic: every target agrees.

All rest on ``e^x + k = 2^n (e^r - 1) + (2^n + k)`` with ``n = round(x / ln 2)``, where ``|r| <=
ln(2) / 2`` and a polynomial of degree 6 is accurate to fp32. With k = -1 that keeps tanh relatively
exact near zero. NaN passes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

Expr = Any

_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
# (e^r - 1) / r by powers of r: greatest relative error on |r| <= ln(2) / 2 1.1e-8 (Lawson's
# iteration), before the coefficients are rounded to fp32.
_SERIES = (1.0, 0.49999998, 0.16666506, 0.041667137, 0.0083691041, 0.0013888873)
# A sum with it is rounded to a whole number n, whose 127 + n then fill the lowest bits.
_ROUNDER = 1.5 * 2**23 + 127
_ROUNDER_BITS = 0x4B400000  # of 1.5 * 2^23
# Half the coefficients of the complementary error function, by powers of 1 / (1 + p x sqrt(2)).
_TAIL_SCALE = 0.3275911 / 2**0.5
_TAIL = (0.127414796, -0.142248368, 0.7107068705, -0.7265760135, 0.5307027145)


class VectorMath:
    """Functions of ``float32 x lanes`` expressions; of scalars where ``lanes`` is 1.

    Attributes:
        lanes: Of a vector.
        rounds: Whether there is an instruction that rounds to whole numbers.
        halves: Whether there is one that widens floats of 16 bits.
    """

    def __init__(self, lanes: int, rounds: bool = True, halves: bool = False) -> None:
        self.lanes, self.rounds, self.halves = lanes, rounds, halves
        self._type = "float32" if lanes == 1 else f"float32x{lanes}"
        self._integers = "int32" if lanes == 1 else f"int32x{lanes}"
        self._suffix = "f32" if lanes == 1 else f"v{lanes}f32"

    def constant(self, value: float) -> Expr:
        """A vector with ``value`` in every lane."""
        return self.spread(T.float32(value))

    def spread(self, value: Expr) -> Expr:
        """A vector with the scalar ``value`` in every lane."""
        return value if self.lanes == 1 else T.broadcast(value, self.lanes)

    def _shift(self, by: int) -> Expr:
        return self.spread(T.int32(by))

    def clamp(self, x: Expr, low: float, high: float) -> Expr:
        """Limit to [low, high]; NaN stays NaN."""
        above = self.maximum(x, self.constant(low))
        return T.bind(self._extreme("minimum", above, self.constant(high)))

    def maximum(self, a: Expr, b: Expr) -> Expr:
        """The larger of two; NaN if either is."""
        return self._extreme("maximum", a, b)

    def _extreme(self, name: str, a: Expr, b: Expr) -> Expr:
        # Not T.max: it loses NaN. Not Select: TVM's simplifier inlines every bound value into
        # its condition and never comes back from nested ones.
        return T.call_llvm_pure_intrin(self._type, f"llvm.{name}.{self._suffix}", a, b)

    def exp(self, x: Expr) -> Expr:
        """``e^x`` for x up to 88; below -88 it is exactly 0, a float of exponent 0."""
        return self.exp_plus(self.clamp(x, -88.0, 88.0), 0.0)

    def exp_plus(self, x: Expr, addend: float) -> Expr:
        """``e^x + addend`` for x in [-88, 88]."""
        # As bits in between: TVM would take (a + b) - b for a.
        rounded = x * self.constant(_LOG2_E) + self.constant(_ROUNDER)
        bits = T.bind(T.reinterpret(self._integers, rounded))
        n = T.bind(T.reinterpret(self._type, bits) - self.constant(_ROUNDER))
        r = T.bind(x - n * self.constant(_LN2))  # fused, or at worst 5e-6 off at the ends of x
        series = self.constant(_SERIES[-1])
        for coefficient in _SERIES[-2::-1]:
            series = series * r + self.constant(coefficient)
        q = T.bind(series * r)
        shifted = T.shift_left(bits, self._shift(23))  # the exponent 127 + n
        scale = T.bind(T.reinterpret(self._type, shifted))
        return T.bind(scale * q + (scale + self.constant(addend)))

    def round(self, x: Expr) -> Expr:
        """Round to the nearest integer, ties to even."""
        return T.call_llvm_pure_intrin(self._type, f"llvm.roundeven.{self._suffix}", x)

    def rounded(self, x: Expr) -> Expr:
        """A product as it is in fp32: LLVM may not add it unrounded, in a fused instruction."""
        return T.call_llvm_pure_intrin(self._type, f"llvm.arithmetic.fence.{self._suffix}", x)

    def to_int32(self, x: Expr) -> Expr:
        """The nearest int32, ties to even, of |x| below 2^22."""
        if self.rounds:
            return T.cast(self.round(x), self._integers)
        bits = T.reinterpret(self._integers, self.rounded(x) + self.constant(_ROUNDER - 127))
        return bits - self.spread(T.int32(_ROUNDER_BITS))

    def widened(self, x: Expr, dtype: str) -> Expr:
        """A scale or zero point as fp32, exactly; those of 16 bits are finite.

        Args:
            x: It, as it is stored.
            dtype: ``"float32"``, ``"float16"`` or ``"uint8"``.
        """
        if dtype == "float32":
            return x
        if dtype == "float16" and not self.halves:
            return self._widened_by_bits(x)
        return T.cast(x, self._type)

    def _widened_by_bits(self, x: Expr) -> Expr:
        """Moving the bits makes a number 2^112 too small, which its exponent makes up for.

        That is right but for subnormal ones, which get a leading 1 they do not have: they are the
        difference to 2^-14 of what has an exponent larger by one. Of normal ones this difference is
        no smaller than they are, so the smaller of both is right. No step sees a subnormal float32,
        which some CPUs take for zero.
        """
        bits = T.bind(
            T.cast(T.reinterpret(self._integers.replace("int32", "uint16"), x), self._integers)
        )
        sign = T.shift_left(T.bitwise_and(bits, self.spread(T.int32(0x8000))), self._shift(16))
        size = T.bind(
            T.shift_left(T.bitwise_and(bits, self.spread(T.int32(0x7FFF))), self._shift(13))
        )
        normal = size + self.spread(T.int32(112 << 23))
        larger = T.reinterpret(self._type, size + self.spread(T.int32(113 << 23)))
        subnormal = T.reinterpret(self._integers, larger - self.constant(2.0**-14))
        return T.reinterpret(self._type, T.bitwise_or(T.min(normal, subnormal), sign))

    def relu(self, x: Expr) -> Expr:
        """``max(x, 0)``."""
        return self.maximum(x, self.constant(0.0))

    def relu6(self, x: Expr) -> Expr:
        """``min(max(x, 0), 6)``."""
        return self.clamp(x, 0.0, 6.0)

    def hardsigmoid(self, x: Expr) -> Expr:
        """``relu6(x + 3) / 6``."""
        return self.relu6(x + self.constant(3.0)) * self.constant(1 / 6)

    def hardswish(self, x: Expr) -> Expr:
        """``x * relu6(x + 3) / 6`` (Howard et al. 2019, arXiv 1905.02244, section 5.2)."""
        x = T.bind(x)
        return x * self.hardsigmoid(x)

    def sigmoid(self, x: Expr) -> Expr:
        """``1 / (1 + e^-x)``, to 6e-6 relatively; below -87 it stays at 1.6e-38."""
        return self.constant(1.0) / self.sigmoid_divisor(x)

    def hard_sigmoid(self, x: Expr) -> Expr:
        """``0.2 x + 0.5`` within [0, 1]."""
        return self.clamp(x * self.constant(0.2) + self.constant(0.5), 0.0, 1.0)

    def softsign(self, x: Expr) -> Expr:
        """``x / (1 + |x|)``."""
        x = T.bind(x)
        size = self.maximum(x, self.constant(0.0) - x)
        return x / (size + self.constant(1.0))

    def sigmoid_divisor(self, x: Expr) -> Expr:
        """``1 + e^-x``, what sigmoid divides by: several functions may share one division."""
        return self.exp_plus(self.constant(0.0) - self.clamp(x, -87.0, 87.0), 1.0)

    def gated(self, value: Expr, gate: Expr) -> Expr:
        """``value * sigmoid(gate)``."""
        return value / self.sigmoid_divisor(gate)

    def tanh(self, x: Expr) -> Expr:
        """``(e^2x - 1) / (e^2x + 1)``, to 1e-6 relatively; beyond 10 it is 1 in fp32."""
        m = self.exp_plus(self.clamp(x, -10.0, 10.0) * self.constant(2.0), -1.0)
        return m / (m + self.constant(2.0))

    def sigmoid_tanh(self, x: Expr, y: Expr) -> Expr:
        """``sigmoid(x) * tanh(y)`` with one division."""
        m = self.exp_plus(self.clamp(y, -10.0, 10.0) * self.constant(2.0), -1.0)
        return m / ((m + self.constant(2.0)) * self.sigmoid_divisor(x))

    def silu(self, x: Expr) -> Expr:
        """``x * sigmoid(x)``, to 6e-6 relatively down to -87."""
        x = T.bind(self.maximum(x, self.constant(-88.0)))  # beyond it the result is 0, whatever x
        return x / self.sigmoid_divisor(x)

    def gelu(self, x: Expr) -> Expr:
        """``x`` times the normal distribution below x, to 4e-7.

        What lies beyond |x| of the distribution is a polynomial of ``1 / (1 + p |x|)`` times the
        density (Abramowitz and Stegun 1964, 7.1.26).
        """
        size = T.bind(self.clamp(self.maximum(x, self.constant(0.0) - x), 0.0, 13.0))
        near = T.bind(self.constant(1.0) / (size * self.constant(_TAIL_SCALE) + self.constant(1.0)))
        series = self.constant(_TAIL[-1])
        for coefficient in _TAIL[-2::-1]:
            series = series * near + self.constant(coefficient)
        density = self.exp_plus(size * size * self.constant(-0.5), 0.0)
        return self.relu(x) - size * (series * near * density)

    def function(self, name: str) -> Callable[[Expr], Expr]:
        """Return the function called ``name``, one of `FUNCTIONS`; "" is the identity."""
        return getattr(self, name) if name in FUNCTIONS else lambda x: x


#: Activation functions of one value.
FUNCTIONS = ("relu", "relu6", "sigmoid", "hardsigmoid", "tanh", "silu", "hardswish", "gelu")

#: The functions of scalars.
SCALAR_MATH = VectorMath(1)
