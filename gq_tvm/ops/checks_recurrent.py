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


def check_lstm(
    op: str,
    x: Any,
    h0: Any,
    c0: Any,
    shape_ih: Sequence[Any],
    shape_hh: Sequence[Any],
    bias: Any,
    activation: str,
) -> None:
    """What an LSTM with weights of these indices demands beside them."""
    checks.check_dtype(op, c0=(c0, "float32"))
    _check_products(op, 4, x, h0, shape_ih, shape_hh)
    checks.check_shape(op, "c0", c0.shape, h0.shape)
    checks.check_linear(op, x, shape_ih, bias, activation)


def check_gru(
    op: str,
    x: Any,
    h0: Any,
    shape_ih: Sequence[Any],
    shape_hh: Sequence[Any],
    bias_ih: Any,
    bias_hh: Any,
    activation: str,
) -> None:
    """What a GRU with weights of these indices demands beside them."""
    _check_products(op, 3, x, h0, shape_ih, shape_hh)
    checks.check_linear(op, x, shape_ih, bias_ih, activation)
    checks.check_linear(op, h0, shape_hh, bias_hh, activation)


def _check_products(
    op: str, gates: int, x: Any, h0: Any, shape_ih: Sequence[Any], shape_hh: Sequence[Any]
) -> None:
    checks.check_dtype(op, h0=(h0, "float32"))
    checks.check_shape(op, "x", x.shape, (None, None, None))
    checks.check_shape(op, "h0", h0.shape, (x.shape[0], None))
    hidden = h0.shape[1]
    checks.check_shape(op, "indices_ih", shape_ih, (gates * hidden, x.shape[2]))
    checks.check_shape(op, "indices_hh", shape_hh, (gates * hidden, hidden))
