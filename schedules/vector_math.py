"""Activation functions on fp32 vectors, in plain arithmetic so that every target agrees.

All rest on ``expm1``: ``e^x - 1 = 2^n (e^r - 1) + (2^n - 1)`` with ``n = round(x / ln 2)`` and
``|r| <= ln(2) / 2``, where ``e^r - 1 = r + r^2 p(r)`` with a polynomial p of degree 4 is accurate
to fp32. That keeps tanh relatively exact near zero. NaN passes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

Expr = Any

_LOG2_E = 1.4426950408889634
# ln 2 in two parts: n * _LN2_HIGH is exact for |n| < 2^9 (Cody and Waite's reduction).
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
# p: the minimax polynomial; the relative error of e^r - 1 is 1.3e-8, with fp32 rounding 9.1e-8.
_SERIES = (0.49999998, 0.16666543, 0.0416672, 0.00836655, 0.00138825)


class VectorMath:
    """Functions of ``float32 x lanes`` expressions; of scalars where ``lanes`` is 1."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._type = "float32" if lanes == 1 else f"float32x{lanes}"
        self._integers = "int32" if lanes == 1 else f"int32x{lanes}"
        self._suffix = "f32" if lanes == 1 else f"v{lanes}f32"

    def constant(self, value: float) -> Expr:
        """A vector with ``value`` in every lane."""
        return self.spread(T.float32(value))

    def spread(self, value: Expr) -> Expr:
        """A vector with the scalar ``value`` in every lane."""
        return value if self.lanes == 1 else T.broadcast(value, self.lanes)

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
        """``e^x`` for x up to 88; below -88 it is exactly 0."""
        scale, q = self._exp_parts(self.clamp(x, -88.0, 88.0))
        return T.bind(scale * q + scale)

    def expm1(self, x: Expr) -> Expr:
        """``e^x - 1`` for x in [-88, 88]."""
        scale, q = self._exp_parts(x)
        return T.bind(scale * q + (scale - self.constant(1.0)))

    def _exp_parts(self, x: Expr) -> tuple[Expr, Expr]:
        """``2^n`` and ``e^r - 1``; at -88, n is -127 and its float of exponent 0 is 0."""
        n = T.bind(self.round(x * self.constant(_LOG2_E)))
        r = T.bind(x - n * self.constant(_LN2_HIGH) - n * self.constant(_LN2_LOW))
        highest, *others = reversed(_SERIES)
        series = self.constant(highest)
        for coefficient in others:
            series = series * r + self.constant(coefficient)
        q = T.bind(r + r * r * series)
        exponent = T.cast(n, self._integers) + self.spread(T.int32(127))
        shifted = T.shift_left(exponent, self.spread(T.int32(23)))
        return T.bind(T.reinterpret(self._type, shifted)), q

    def round(self, x: Expr) -> Expr:
        """Round to the nearest integer, ties to even."""
        return T.call_llvm_pure_intrin(self._type, f"llvm.roundeven.{self._suffix}", x)

    def relu(self, x: Expr) -> Expr:
        """``max(x, 0)``."""
        return self.maximum(x, self.constant(0.0))

    def sigmoid(self, x: Expr) -> Expr:
        """``1 / (1 + e^-x)``."""
        return self.gated(self.constant(1.0), x)

    def gated(self, value: Expr, gate: Expr) -> Expr:
        """``value * sigmoid(gate)``."""
        return value / self._inverse_sigmoid(self.clamp(gate, -88.0, 88.0))

    def _inverse_sigmoid(self, x: Expr) -> Expr:
        """``1 + e^-x`` for x in [-88, 88]."""
        return self.expm1(self.constant(0.0) - x) + self.constant(2.0)

    def tanh(self, x: Expr) -> Expr:
        """``(e^2x - 1) / (e^2x + 1)``; beyond 10 it is 1 in fp32."""
        m = self.expm1(self.clamp(x, -10.0, 10.0) * self.constant(2.0))
        return m / (m + self.constant(2.0))

    def silu(self, x: Expr) -> Expr:
        """``x * sigmoid(x)``."""
        x = T.bind(self.maximum(x, self.constant(-88.0)))  # beyond it the result is 0, whatever x
        below = self._extreme("minimum", x, self.constant(88.0))
        return x / self._inverse_sigmoid(below)

    def function(self, name: str) -> Callable[[Expr], Expr]:
        """Return the function called ``name``, one of `FUNCTIONS`; "" is the identity."""
        return getattr(self, name) if name in FUNCTIONS else lambda x: x


#: Activation functions of one value.
FUNCTIONS = ("relu", "sigmoid", "tanh", "silu")
