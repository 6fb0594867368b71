"""Activation functions on fp32 vectors, in plain arithmetic so that every target agrees.

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


class VectorMath:
    """Functions of ``float32 x lanes`` expressions."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self._type = f"float32x{lanes}"

    def constant(self, value: float) -> Expr:
        """A vector with ``value`` in every lane."""
        return T.broadcast(T.float32(value), self.lanes)

    def clamp(self, x: Expr, low: float, high: float) -> Expr:
        """Limit to [low, high]; NaN stays NaN."""
        return T.bind(self._extreme("minimum", self._extreme("maximum", x, low), high))

    def _extreme(self, name: str, x: Expr, bound: float) -> Expr:
        # Not T.max: it loses NaN. Not Select: TVM's simplifier inlines every bound value into
        # its condition and never comes back from nested ones.
        return T.call_llvm_pure_intrin(
            self._type, f"llvm.{name}.v{self.lanes}f32", x, self.constant(bound)
        )

    def exp_plus(self, x: Expr, addend: float) -> Expr:
        """``e^x + addend`` for x in [-87, 88]."""
        integer = f"int32x{self.lanes}"
        # As bits in between: TVM would take (a + b) - b for a.
        bits = T.bind(T.reinterpret(integer, x * self.constant(_LOG2_E) + self.constant(_ROUNDER)))
        n = T.bind(T.reinterpret(self._type, bits) - self.constant(_ROUNDER))
        r = T.bind(x - n * self.constant(_LN2))  # fused, or at worst 5e-6 off at the ends of x
        series = self.constant(_SERIES[-1])
        for coefficient in _SERIES[-2::-1]:
            series = series * r + self.constant(coefficient)
        q = T.bind(series * r)
        shifted = T.shift_left(bits, T.broadcast(T.int32(23), self.lanes))  # the exponent 127 + n
        scale = T.bind(T.reinterpret(self._type, shifted))
        return T.bind(scale * q + (scale + self.constant(addend)))

    def round(self, x: Expr) -> Expr:
        """Round to the nearest integer, ties to even."""
        return T.call_llvm_pure_intrin(self._type, f"llvm.roundeven.v{self.lanes}f32", x)

    def relu(self, x: Expr) -> Expr:
        """``max(x, 0)``."""
        return self._extreme("maximum", x, 0.0)

    def sigmoid(self, x: Expr) -> Expr:
        """``1 / (1 + e^-x)``."""
        return self.constant(1.0) / self.sigmoid_divisor(x)

    def sigmoid_divisor(self, x: Expr) -> Expr:
        """``1 + e^-x``, what sigmoid divides by: several functions may share one division."""
        return self.exp_plus(self.constant(0.0) - self.clamp(x, -87.0, 87.0), 1.0)

    def tanh(self, x: Expr) -> Expr:
        """``(e^2x - 1) / (e^2x + 1)``; beyond 10 it is 1 in fp32."""
        m = self.exp_plus(self.clamp(x, -10.0, 10.0) * self.constant(2.0), -1.0)
        return m / (m + self.constant(2.0))

    def sigmoid_tanh(self, x: Expr, y: Expr) -> Expr:
        """``sigmoid(x) * tanh(y)`` with one division."""
        m = self.exp_plus(self.clamp(y, -10.0, 10.0) * self.constant(2.0), -1.0)
        return m / ((m + self.constant(2.0)) * self.sigmoid_divisor(x))

    def silu(self, x: Expr) -> Expr:
        """``x * sigmoid(x)``."""
        x = T.bind(x)
        # sigmoid stops falling at -87: beyond it the result is 0, whatever x.
        return self._extreme("maximum", x, -88.0) * self.sigmoid(x)

    def epilogue(self, name: str | None) -> Callable[[Expr], Expr]:
        """Return the function called ``name``; None is the identity."""
        if name is None:
            return lambda x: x
        return {"relu": self.relu, "sigmoid": self.sigmoid, "tanh": self.tanh, "silu": self.silu}[
            name
        ]


#: Activation functions a linear kernel can end with.
EPILOGUES = ("relu", "sigmoid", "tanh", "silu")
