"""The step of a GRU: ``n = tanh(n_x + sigmoid(r) n_h)``, ``h = n + sigmoid(z) (h - n)``."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.loops.recurrent import Cell

Expr = Any
Buffer = Any


class GRUCell(Cell):
    """The h-part has a buffer of its own, as r multiplies it alone; each part has its bias."""

    name = "gru"
    gates_a_unit = 3
    states = ("h",)
    biases = 2

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.from_h = T.alloc_buffer((self.engine.padded_n,), "float32")

    def add(self, slot: Expr, at: Expr, total: Expr) -> None:
        T.buffer_store(self.from_h, total + self.more_biases[0][at], [at])

    def update(
        self,
        b: Expr,
        t: Expr,
        slot: Expr,
        old: list[Buffer],
        first: Expr,
        count: int,
        partial: bool,
    ) -> None:
        each(count, lambda i: self._candidate(slot, first + i))
        each(count, lambda i: self._new_hidden(b, t, slot, first + i, old[0], partial))

    def _candidate(self, slot: Expr, unit: Expr) -> None:
        """Put n where its h-part was."""
        math, (r, _, n) = self.engine.math, self.of_unit(unit)
        reset = math.sigmoid_divisor(self.gates[slot, r] + self.from_h[r])
        new = math.tanh(self.gates[slot, n] + self.from_h[n] / reset)
        T.buffer_store(self.from_h, new, [n])

    def _new_hidden(
        self, b: Expr, t: Expr, slot: Expr, unit: Expr, old_h: Buffer, partial: bool
    ) -> None:
        _, z, n = self.of_unit(unit)
        keep = self.engine.math.sigmoid_divisor(self.gates[slot, z] + self.from_h[z])
        candidate = T.bind(self.from_h[n])
        old = self.load(old_h, [b], unit, partial)
        new = T.bind(candidate + (old - candidate) / keep)
        self.store(self.state[0], new, [b], unit, partial)
        self.store(self.y, new, [b, t], unit, partial)
