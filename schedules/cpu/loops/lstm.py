"""The step of an LSTM: ``c = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.loops.recurrent import Cell

Expr = Any
Buffer = Any


class LSTMCell(Cell):
    """Both parts of a gate are added up where the x-part is; one bias."""

    name = "lstm"
    gates_a_unit = 4
    states = ("h", "c")
    biases = 1

    def add(self, slot: Expr, at: Expr, total: Expr) -> None:
        T.buffer_store(self.gates, self.gates[slot, at] + total, [slot, at])

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
        each(count, lambda i: self._new_cell(b, slot, first + i, old[1], partial))
        each(count, lambda i: self._new_hidden(b, t, slot, first + i, partial))

    def _new_cell(self, b: Expr, slot: Expr, unit: Expr, old_c: Buffer, partial: bool) -> None:
        math, (i, f, g, _) = self.engine.math, self._gates(slot, unit)
        old = self.load(old_c, [b], unit, partial)
        new = old / math.sigmoid_divisor(f) + math.sigmoid_tanh(i, g)
        self.store(self.state[1], new, [b], unit, partial)

    def _new_hidden(self, b: Expr, t: Expr, slot: Expr, unit: Expr, partial: bool) -> None:
        h, c = self.state
        *_, o = self._gates(slot, unit)
        new = self.engine.math.sigmoid_tanh(o, self.load(c, [b], unit, partial))
        new = T.bind(new)
        self.store(h, new, [b], unit, partial)
        self.store(self.y, new, [b, t], unit, partial)

    def _gates(self, slot: Expr, unit: Expr) -> list[Expr]:
        return [self.gates[slot, at] for at in self.of_unit(unit)]
