"""Activation functions on fp32 vectors, in plain arithmetic so that every target agrees.

All rest on ``expm1``: ``e^x - 1 = 2^n (e^r - 1) + (2^n - 1)`` with ``n = round(x / ln 2)`` and
``|r| <= ln(2) / 2``, where a Taylor polynomial of degree 8 is accurate to fp32. That keeps tanh
relatively exact near zero. NaN passes through all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

from tvm.script.ir_builder import tirx as T

Expr = Any

_LOG2_E = 1.4426950408889634
# ln 2 in two parts: n * _LN2_HIGH is exact for |n| < 2^9 (Cody and Waite's reduction).
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4


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

    def expm1(self, x: Expr) -> Expr:
        """``e^x - 1`` for x in [-87, 88]."""
        n = T.bind(self.round(x * self.constant(_LOG2_E)))
        r = T.bind(x - n * self.constant(_LN2_HIGH) - n * self.constant(_LN2_LOW))
        series = self.constant(1 / factorial(8))
        for power in range(7, 0, -1):
            series = series * r + self.constant(1 / factorial(power))
        q = T.bind(series * r)
        exponent = T.cast(n, f"int32x{self.lanes}") + T.broadcast(T.int32(127), self.lanes)
        shifted = T.shift_left(exponent, T.broadcast(T.int32(23), self.lanes))
        scale = T.bind(T.reinterpret(self._type, shifted))
        return T.bind(scale * q + (scale - self.constant(1.0)))

    def round(self, x: Expr) -> Expr:
        """Round to the nearest integer, ties to even."""
        return T.call_llvm_pure_intrin(self._type, f"llvm.roundeven.v{self.lanes}f32", x)

    def relu(self, x: Expr) -> Expr:
        """``max(x, 0)``."""
        return self._extreme("maximum", x, 0.0)

    def sigmoid(self, x: Expr) -> Expr:
        """``1 / (1 + e^-x)``."""
        clamped = self.clamp(x, -87.0, 87.0)
        return self.constant(1.0) / (self.expm1(self.constant(0.0) - clamped) + self.constant(2.0))

    def tanh(self, x: Expr) -> Expr:
        """``(e^2x - 1) / (e^2x + 1)``; beyond 10 it is 1 in fp32."""
        m = self.expm1(self.clamp(x, -10.0, 10.0) * self.constant(2.0))
        return m / (m + self.constant(2.0))

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
