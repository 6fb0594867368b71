"""The cells of recurrent layers; what they compute is ``ops.reference_recurrent``'s to say."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.loops.cell import Cell, Parts, Step

Expr = Any
Buffer = Any


class _Summed(Cell):
    """Cells that add both parts of a gate up where the x-part is; one bias."""

    biases = 1

    def add(self, slot: Expr, at: Expr, total: Expr) -> None:
        T.buffer_store(self.gates, self.gates[slot, at] + total, [slot, at])

    def _gates(self, slot: Expr, unit: Expr) -> list[Expr]:
        return [self.gates[slot, at] for at in self.of_unit(unit)]


class LSTMCell(_Summed):
    """``c = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h = sigmoid(o) tanh(c)``."""

    name = "lstm"
    gates_a_unit = 4
    states = ("h", "c")

    def update(self, step: Step, first: Expr, count: int, partial: bool) -> None:
        each(count, lambda i: self._new_cell(step, first + i, partial))
        each(count, lambda i: self._new_hidden(step, first + i, partial))

    def _new_cell(self, step: Step, unit: Expr, partial: bool) -> None:
        i, f, g, _ = self._gates(step.slot, unit)
        old = self.load(step.old[1], [step.b], unit, partial)
        new = self.functions.times(0, f, old) + self.functions.both(0, i, 1, g)
        self.store(self.state[1], new, [step.b], unit, partial)

    def _new_hidden(self, step: Step, unit: Expr, partial: bool) -> None:
        *_, o = self._gates(step.slot, unit)
        c = self.load(self.state[1], [step.b], unit, partial)
        self.take(step, unit, T.bind(self.functions.both(0, o, 2, c)), partial)


class ProjectedLSTMCell(LSTMCell):
    """An LSTM whose h is a product with what it would be (Sak et al. 2014)."""

    behind = "hr"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        assert parts.behind is not None
        self.unprojected = self.padded()
        self.projected = T.alloc_buffer((parts.behind.engine.padded_n,), "float32")

    def take(self, step: Step, unit: Expr, new: Expr, partial: bool) -> None:
        self.store(self.unprojected, new, [], unit, False)

    def finish(self, step: Step) -> None:
        self.multiply_behind(self.unprojected, self.projected)
        with T.serial(0, self.engine.k) as j:
            T.buffer_store(self.state[0], self.projected[j], [step.b, j])
            T.buffer_store(self.y, self.projected[j], [step.b, step.t, j])


class GRUCell(Cell):
    """``n = tanh(n_x + sigmoid(r) n_h)``, ``h = n + sigmoid(z) (h - n)``.

    The h-part has a buffer of its own, as r multiplies it alone; each part has its bias.
    """

    name = "gru"
    gates_a_unit = 3
    states = ("h",)
    biases = 2

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.from_h = T.alloc_buffer((self.engine.padded_n,), "float32")

    def add(self, slot: Expr, at: Expr, total: Expr) -> None:
        T.buffer_store(self.from_h, total + self.parts.biases[0][at], [at])

    def update(self, step: Step, first: Expr, count: int, partial: bool) -> None:
        each(count, lambda i: self._candidate(step.slot, first + i))
        each(count, lambda i: self._new_hidden(step, first + i, partial))

    def _candidate(self, slot: Expr, unit: Expr) -> None:
        """Put n where its h-part was."""
        r, _, n = self.of_unit(unit)
        reset = self.functions.times(0, self.gates[slot, r] + self.from_h[r], self.from_h[n])
        T.buffer_store(self.from_h, self.functions.value(1, self.gates[slot, n] + reset), [n])

    def _new_hidden(self, step: Step, unit: Expr, partial: bool) -> None:
        _, z, n = self.of_unit(unit)
        candidate = T.bind(self.from_h[n])
        old = self.load(step.old[0], [step.b], unit, partial)
        z_gate = self.gates[step.slot, z] + self.from_h[z]
        keep = self.functions.times(0, z_gate, old - candidate)
        self.take(step, unit, T.bind(candidate + keep), partial)


class ResetBeforeGRUCell(Cell):
    """A GRU with ``n = tanh(n_x + W_hn (sigmoid(r) h))``: the h-part has r and z alone."""

    name = "gru_reset_before"
    gates_a_unit = 3
    gates_of_h = 2
    states = ("h",)
    biases = 1
    behind = "hn"

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        assert parts.behind is not None
        self.from_h = T.alloc_buffer((self.engine.padded_n,), "float32")
        self.from_reset = T.alloc_buffer((parts.behind.engine.padded_n,), "float32")
        self.reset = self.padded()

    def add(self, slot: Expr, at: Expr, total: Expr) -> None:
        T.buffer_store(self.from_h, total, [at])

    def between(self, step: Step) -> None:
        def unit(unit: Expr, partial: bool = False) -> None:
            r = self._gate(step.slot, unit, 0)
            old_h = self.load(step.old[0], [step.b], unit, partial)
            self.store(self.reset, self.functions.times(0, r, old_h), [], unit, False)

        each(self.whole_units, unit)
        if self.rest:
            unit(T.int32(self.whole_units), True)
        self.multiply_behind(self.reset, self.from_reset)

    def update(self, step: Step, first: Expr, count: int, partial: bool) -> None:
        from_x = self.gates[step.slot, self.of_unit(first)[2]]
        n = from_x + self.from_reset[self.of_unit(first, 1)[0]]
        n = T.bind(self.functions.value(1, n))
        old_h = self.load(step.old[0], [step.b], first, partial)
        new = T.bind(n + self.functions.times(0, self._gate(step.slot, first, 1), old_h - n))
        self.take(step, first, new, partial)

    def _gate(self, slot: Expr, unit: Expr, gate: int) -> Expr:
        from_h = self.from_h[self.of_unit(unit, self.gates_of_h)[gate]]
        return self.gates[slot, self.of_unit(unit)[gate]] + from_h


class RNNCell(_Summed):
    """``h = tanh(x-part + h-part)``."""

    name = "rnn"
    gates_a_unit = 1
    states = ("h",)

    def update(self, step: Step, first: Expr, count: int, partial: bool) -> None:
        each(count, lambda i: self._new_hidden(step, first + i, partial))

    def _new_hidden(self, step: Step, unit: Expr, partial: bool) -> None:
        (gate,) = self._gates(step.slot, unit)
        self.take(step, unit, T.bind(self.functions.value(0, gate)), partial)


#: By name.
CELLS: dict[str, type[Cell]] = {
    one.name: one for one in (LSTMCell, GRUCell, ResetBeforeGRUCell, RNNCell)
}
