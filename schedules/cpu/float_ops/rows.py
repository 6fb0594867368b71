"""Sums, maxima and maps over a row of floats: whole vectors, then what is left one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.vector_math import VectorMath

Expr = Any
Buffer = Any
#: body(math, at): emits something for the elements ``at``, a vector of indices or one index.
Body = Callable[[VectorMath, Expr], Any]

_CHAINS = 4  # independent partial results: they hide the latency of an operation


class Row:
    """Emits loops over the elements of a row; its width may be symbolic."""

    def __init__(self, lanes: int, width: Any) -> None:
        self.lanes = lanes
        if isinstance(width, int):
            self.whole, self.rest = divmod(width, lanes)
        else:
            self.whole, self.rest = tirx.floordiv(width, lanes), tirx.floormod(width, lanes)

    def map(self, body: Body) -> None:
        """Emit ``body`` for all elements."""
        math, lanes = VectorMath(self.lanes), self.lanes
        each(self.whole, lambda i: body(math, T.ramp(i * lanes, 1, lanes)))
        self._each_left(body)

    def fold(
        self, start: float, combine: Callable[[VectorMath, Expr, Expr], Expr], element: Body
    ) -> Expr:
        """Emit ``combine(... combine(start, e0) ..., e_n)`` in some order; return the scalar."""
        math, lanes = VectorMath(self.lanes), self.lanes
        everything = T.ramp(0, 1, lanes)
        chains = [T.alloc_buffer((lanes,), "float32") for _ in range(_CHAINS)]
        for chain in chains:
            T.buffer_store(chain, math.constant(start), [everything])

        def take(chain: Buffer, i: Expr) -> None:
            value = element(math, T.ramp(i * lanes, 1, lanes))
            T.buffer_store(chain, combine(math, chain[everything], value), [everything])

        def step(i: Expr) -> None:
            for c, chain in enumerate(chains):
                take(chain, i * _CHAINS + c)

        steps = self.whole // _CHAINS
        each(steps, step)
        each(self.whole - steps * _CHAINS, lambda i: take(chains[0], steps * _CHAINS + i))
        for other in chains[1:]:
            joined = combine(math, chains[0][everything], other[everything])
            T.buffer_store(chains[0], joined, [everything])
        total = chains[0]
        while lanes > 1:
            lanes //= 2
            half = VectorMath(lanes)
            low, high = (T.ramp(at, 1, lanes) if lanes > 1 else at for at in (0, lanes))
            T.buffer_store(total, combine(half, total[low], total[high]), [low])
        self._each_left(
            lambda one, at: T.buffer_store(total, combine(one, total[0], element(one, at)), [0])
        )
        return T.bind(total[0])

    def _each_left(self, body: Body) -> None:
        first = self.whole * self.lanes
        each(self.rest, lambda j: body(VectorMath(1), first + j))


def add(_: VectorMath, a: Expr, b: Expr) -> Expr:
    """A sum, for ``Row.fold``."""
    return a + b


def larger(math: VectorMath, a: Expr, b: Expr) -> Expr:
    """A maximum that keeps NaN, for ``Row.fold``."""
    return math.maximum(a, b)
