"""The recurrent operators in NumPy, weights in codebooks or in float; see ``reference``.

Common to all: ``lengths`` i64 [B] or None for all T. At frames at and behind a length y is 0 and
the state stays; a sequence without frames gives its first state back. ``reverse`` goes from the
last frame to the first, y staying in the order of x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops.checks_recurrent import LAYERS, check_layer, check_recurrent, functions_of
from gq_tvm.ops.reference import F32, product
from gq_tvm.ops.weight import Weight

#: A step: what the x-part of the gates is, and the state -> the new state, y's first.
Step = Callable[[NDArray, list[NDArray]], list[NDArray]]


def codebook_recurrent(
    name: str,
    x: F32,
    state: Sequence[F32],
    weights: Sequence[Weight],
    biases: Sequence[F32 | None],
    activation: str,
    lengths: NDArray[np.int64] | None = None,
    reverse: bool = False,
) -> list[F32]:
    """One recurrent layer in one direction, batch first, its weights in codebooks.

    With G gates, what the cell of ``name`` computes stands at ``recurrent``; gates are in PyTorch's
    order: i, f, g, o of an LSTM; r, z, n of a GRU, whose ``n = tanh(x-part + r * h-part)`` has the
    h-part with its bias.

    Args:
        name: One of ``checks_recurrent.LAYERS``.
        x: f32 [B, T, I].
        state: h0 f32 [B, P], of an LSTM also c0 f32 [B, H].
        weights: [G * H, I] and [G * H, P]; of a projected LSTM also [P, H]. Without one P is H.
        biases: f32 [G * H] or None: of a GRU PyTorch's two, else one, the sum of these.
        activation: As for ``codebook_linear``; x is rounded once per frame, h once per step, and
            once more before it is projected.
        lengths: See the module.
        reverse: The same.

    Returns:
        y f32 [B, T, P], and each part of the last state.

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    kind = LAYERS[name]
    for weight in weights:
        weight.check(f"codebook_{name}")
    check_layer(name, x, state, [w.indices.shape for w in weights], biases, activation, lengths)
    # float64 carries the exact path; the others are float32 throughout, as kernels compute them.
    dtype = np.float64 if activation == "fp32" else np.float32
    own = [FUNCTIONS[one] for one in functions_of(kind.cell, kind.functions)]
    from_x = product(x.astype(dtype), weights[0], activation)
    if kind.cell == "gru" and biases[0] is not None:
        from_x = from_x + biases[0]
    bias = biases[-1]

    def step(part: NDArray, state: list[NDArray]) -> list[NDArray]:
        from_h = product(state[0], weights[1], activation)
        if kind.cell == "gru":
            return _gru_cell(part, from_h if bias is None else from_h + bias, state[0])
        gates = part + from_h if bias is None else part + from_h + bias
        if kind.cell == "rnn":
            return [own[0](gates)]
        h, c = _lstm_cell(gates, state[1])
        return [h if len(weights) < 3 else product(h, weights[2], activation), c]

    y, after = _scan(step, from_x, [one.astype(dtype) for one in state], lengths, reverse)
    return [y, *after]


def recurrent(
    x: F32,
    state: Sequence[F32],
    weight_ih: F32,
    weight_hh: F32,
    bias_ih: F32 | None = None,
    bias_hh: F32 | None = None,
    weight_hr: F32 | None = None,
    lengths: NDArray[np.int64] | None = None,
    cell: str = "lstm",
    reverse: bool = False,
    clip: float = 0.0,
    functions: str = "",
) -> list[F32]:
    """One recurrent layer in one direction, batch first, in float, the sums exact.

    With G gates, ``cell`` is one of

    - ``"lstm"``: gates i, f, g, o and f(i), f(f), g(g), f(o): ``c = f c + i g``, ``h = o h(c)``;
    - ``"gru"``: r, z, n; ``n = g(x-part + r * h-part)``, ``h = (1 - z) n + z h`` (Cho et al. 2014,
      arXiv:1406.1078v1; PyTorch's, and ONNX's with linear_before_reset = 1);
    - ``"gru_reset_before"``: the same with ``n = g(x-part + W_hn (r h))`` (v3 of the same; ONNX's
      default);
    - ``"rnn"``: ``h = f(x-part + h-part)``.

    Args:
        x: f32 [B, T, I].
        state: h0 f32 [B, P], of an LSTM also c0 f32 [B, H].
        weight_ih: f32 [G * H, I].
        weight_hh: f32 [G * H, P].
        bias_ih: f32 [G * H] or None.
        bias_hh: The same.
        weight_hr: f32 [P, H], an LSTM's projection of h; None: P is H.
        lengths: See the module.
        cell: See above.
        reverse: See the module.
        clip: What goes into f, g and h(.) is limited to [-clip, clip]; 0 for no limit.
        functions: f, g and h, as many as the cell has, joined by commas, of
            ``checks_recurrent.FUNCTIONS``; "" for the usual ones, ``checks_recurrent.CELLS``.

    Returns:
        y f32 [B, T, P], and each part of the last state.

    Raises:
        Error: a shape, dtype or option is wrong.
    """
    biases = bias_ih, bias_hh
    check_recurrent(
        cell, x, state, weight_ih, weight_hh, *biases, weight_hr, lengths, clip, functions
    )
    own = [_limited(FUNCTIONS[name], clip) for name in functions_of(cell, functions)]
    w_ih, w_hh = (w.astype(np.float64) for w in (weight_ih, weight_hh))
    b_ih, b_hh = (0.0 if b is None else b.astype(np.float64) for b in biases)
    from_x = x.astype(np.float64) @ w_ih.T + b_ih

    def step(part: NDArray, state: list[NDArray]) -> list[NDArray]:
        h = state[0]
        if cell == "gru_reset_before":
            r, z, n = np.split(w_hh, 3)
            of_r, of_z, of_n = np.split(b_hh + np.zeros(len(w_hh)), 3)
            reset = own[0](np.split(part, 3, 1)[0] + h @ r.T + of_r)
            from_h = np.concatenate([h @ r.T + of_r, h @ z.T + of_z, (reset * h) @ n.T + of_n], 1)
            return _gru_cell(part, from_h, h, own[0], own[1], before=True)
        from_h = h @ w_hh.T + b_hh
        if cell == "rnn":
            return [own[0](part + from_h)]
        if cell == "gru":
            return _gru_cell(part, from_h, h, own[0], own[1])
        h, c = _lstm_cell(part + from_h, state[1], *own)
        return [h if weight_hr is None else h @ weight_hr.T.astype(np.float64), c]

    y, after = _scan(step, from_x, [one.astype(np.float64) for one in state], lengths, reverse)
    return [y, *after]


def _scan(
    step: Step,
    from_x: NDArray,
    state: list[NDArray],
    lengths: NDArray[np.int64] | None,
    reverse: bool,
) -> tuple[F32, list[F32]]:
    """The steps of all sequences: y f32 [B, T, P] and the last state."""
    batch, frames = from_x.shape[:2]
    if lengths is None:
        lengths = np.full(batch, frames)
    y = np.zeros((batch, frames, state[0].shape[1]), np.float32)
    rows = np.arange(batch)
    for i in range(frames):
        t = lengths - 1 - i if reverse else np.full(batch, i)
        there = i < lengths
        new = step(from_x[rows, t], state)
        y[rows[there], t[there]] = new[0][there]
        state = [np.where(there[:, None], *both) for both in zip(new, state, strict=True)]
    return y, [one.astype(np.float32) for one in state]


def sigmoid(x: NDArray) -> NDArray:
    """The logistic function, without overflow at either end."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


#: What ``checks_recurrent.FUNCTIONS`` are.
FUNCTIONS: dict[str, Callable[[NDArray], NDArray]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
}


def _limited(function: Callable[[NDArray], NDArray], clip: float) -> Callable[[NDArray], NDArray]:
    return (lambda x: function(np.clip(x, -clip, clip))) if clip else function


def _lstm_cell(
    gates: NDArray,
    c: NDArray,
    f: Callable[[NDArray], NDArray] = sigmoid,
    g: Callable[[NDArray], NDArray] = np.tanh,
    h: Callable[[NDArray], NDArray] = np.tanh,
) -> list[NDArray]:
    of_i, of_f, of_g, of_o = np.split(gates, 4, axis=1)
    c = f(of_f) * c + f(of_i) * g(of_g)
    return [f(of_o) * h(c), c]


def _gru_cell(
    from_x: NDArray,
    from_h: NDArray,
    h: NDArray,
    f: Callable[[NDArray], NDArray] = sigmoid,
    g: Callable[[NDArray], NDArray] = np.tanh,
    before: bool = False,
) -> list[NDArray]:
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (np.split(p, 3, axis=1) for p in (from_x, from_h))
    n = g(n_x + (n_h if before else f(r_x + r_h) * n_h))
    z = f(z_x + z_h)
    return [(1 - z) * n + z * h]
