"""What the recurrent operators demand of their arguments; see ``checks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.ops import checks


@dataclass(frozen=True)
class Cell:
    """What a step of a recurrent layer is made of.

    Attributes:
        gates: Rows of its weights for each hidden state.
        states: Parts of its state.
        functions: The usual activation functions, in ONNX's order.
    """

    gates: int
    states: int
    functions: tuple[str, ...]


#: The cells of ``reference_recurrent.recurrent``.
CELLS = {
    "lstm": Cell(4, 2, ("sigmoid", "tanh", "tanh")),
    "gru": Cell(3, 1, ("sigmoid", "tanh")),
    "gru_reset_before": Cell(3, 1, ("sigmoid", "tanh")),
    "rnn": Cell(1, 1, ("tanh",)),
}


@dataclass(frozen=True)
class Layer:
    """An operator with its weights in codebooks: one layer in one direction.

    Attributes:
        cell: One of ``CELLS``.
        functions: Its activation functions, "" for the usual ones.
        parts: How the names of its weights end: those before x and before h, and an LSTM's
            projection of h.
        biases: How those of its biases end: one behind both products, or one behind each.
    """

    cell: str
    functions: str = ""
    parts: tuple[str, ...] = ("_ih", "_hh")
    biases: tuple[str, ...] = ("",)

    @property
    def gates(self) -> int:
        """Rows of the first two weights for each hidden state."""
        return CELLS[self.cell].gates

    @property
    def states(self) -> tuple[str, ...]:
        """A letter for each part of the state."""
        return ("h", "c")[: CELLS[self.cell].states]


#: The layers of ``reference_recurrent.codebook_recurrent``: the operator ``gq::codebook_`` + name.
LAYERS = {
    "lstm": Layer("lstm"),
    "projected_lstm": Layer("lstm", parts=("_ih", "_hh", "_hr")),
    "gru": Layer("gru", biases=("_ih", "_hh")),
    "rnn_tanh": Layer("rnn"),
    "rnn_relu": Layer("rnn", functions="relu"),
}

#: Activation functions of cells; hard_sigmoid is 0.2 x + 0.5 within [0, 1].
FUNCTIONS = ("sigmoid", "tanh", "relu", "hard_sigmoid", "softsign")


def functions_of(cell: str, functions: str) -> tuple[str, ...]:
    """The activation functions of a cell by name, the usual ones for ""."""
    return tuple(functions.split(",")) if functions else CELLS[cell].functions


def check_recurrent(
    cell: str,
    x: Any,
    state: Sequence[Any],
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    weight_hr: Any,
    lengths: Any,
    clip: float,
    functions: str,
) -> None:
    """What ``reference_recurrent.recurrent`` demands, short of the values of ``lengths``."""
    op = "recurrent"
    if cell not in CELLS:
        raise Error(f'{op}: cell must be one of {", ".join(CELLS)}, got "{cell}".')
    kind = CELLS[cell]
    own = functions_of(cell, functions)
    if len(own) != len(kind.functions) or not set(own) <= set(FUNCTIONS):
        raise Error(
            f"{op}: functions of {cell} must be {len(kind.functions)} of {', '.join(FUNCTIONS)}, "
            f'got "{functions}".'
        )
    if not clip >= 0:
        raise Error(f"{op}: clip must not be negative, got {clip}.")
    if len(state) != kind.states:
        raise Error(f"{op}: the state of {cell} has {kind.states} parts, got {len(state)}.")
    if weight_hr is not None and cell != "lstm":
        raise Error(f"{op}: only an lstm has a projection weight_hr.")
    named = {"weight_ih": weight_ih, "weight_hh": weight_hh, "weight_hr": weight_hr}
    named |= {"x": x, "h0": state[0], "bias_ih": bias_ih, "bias_hh": bias_hh}
    if kind.states > 1:
        named["c0"] = state[1]
    checks.check_dtype(op, **{name: (one, "float32") for name, one in named.items()})
    checks.check_shape(op, "weight_ih", weight_ih.shape, (None, None))
    rows = weight_ih.shape[0]
    hidden, rest = divmod(rows, kind.gates)
    if rest:
        raise Error(f"{op}: the {rows} rows of weight_ih are not those of {kind.gates} gates.")
    width = hidden if weight_hr is None else weight_hr.shape[0]
    checks.check_shape(op, "x", x.shape, (None, None, weight_ih.shape[1]))
    checks.check_shape(op, "weight_hh", weight_hh.shape, (rows, width))
    checks.check_shape(op, "h0", state[0].shape, (x.shape[0], width))
    if kind.states > 1:
        checks.check_shape(op, "c0", state[1].shape, (x.shape[0], hidden))
    if weight_hr is not None:
        checks.check_shape(op, "weight_hr", weight_hr.shape, (width, hidden))
    for name in ("bias_ih", "bias_hh"):
        if named[name] is not None:
            checks.check_shape(op, name, named[name].shape, (rows,))
    check_lengths(op, x, lengths)


def check_lengths(op: str, x: Any, lengths: Any) -> None:
    """Refuse numbers of frames of another dtype or shape."""
    if lengths is not None:
        checks.check_dtype(op, lengths=(lengths, "int64"))
        checks.check_shape(op, "lengths", lengths.shape, (x.shape[0],))


def check_longest(op: str, shortest: int, longest: int, frames: int) -> None:
    """Refuse numbers of frames that are none of x."""
    if shortest < 0 or longest > frames:
        wrong = shortest if shortest < 0 else longest
        raise Error(f"{op}: a length of {wrong} is outside the {frames} frames of x.")


def check_layer(
    name: str,
    x: Any,
    state: Sequence[Any],
    shapes: Sequence[Sequence[Any]],
    biases: Sequence[Any],
    activation: str,
    lengths: Any,
) -> None:
    """What a layer with weights of these indices demands, short of the values of ``lengths``."""
    op, kind = f"codebook_{name}", LAYERS[name]
    checks.check_dtype(op, **{f"{n}0": (one, "float32") for n, one in named_state(kind, state)})
    checks.check_shape(op, "x", x.shape, (None, None, None))
    checks.check_shape(op, "h0", state[0].shape, (x.shape[0], None))
    width, hidden = state[0].shape[1], state[-1].shape[1]
    if "_hr" in kind.parts:
        checks.check_shape(op, "c0", state[1].shape, (x.shape[0], None))
        checks.check_shape(op, "indices_hr", shapes[2], (width, hidden))
    elif len(state) > 1:
        checks.check_shape(op, "c0", state[1].shape, state[0].shape)
    rows = kind.gates * hidden
    checks.check_shape(op, "indices_ih", shapes[0], (rows, x.shape[2]))
    checks.check_shape(op, "indices_hh", shapes[1], (rows, width))
    checks.check_linear(op, x, shapes[0], biases[0], activation)
    for shape, bias in zip(shapes[1:], biases[1:], strict=False):
        checks.check_linear(op, state[0], shape, bias, activation)
    check_lengths(op, x, lengths)


def named_state(kind: Layer, state: Sequence[Any]) -> list[tuple[str, Any]]:
    """The parts of a state with their letters."""
    return list(zip(kind.states, state, strict=True))
