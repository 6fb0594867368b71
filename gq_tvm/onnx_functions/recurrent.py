"""Recurrent layers in nodes: ONNX's own where they compute with floats, else a Scan over frames.

ONNX Runtime gives states of zeros for sequences without frames; where sequences have lengths,
these get their first state back. Batch comes first here and second in ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gq_tvm.onnx_functions.body import BOOL, FLOAT, INT32, Body
from gq_tvm.onnx_functions.signature import STATE, Signature
from gq_tvm.onnx_functions.weight import Coded, Operand, expanded, product
from gq_tvm.ops.checks_recurrent import CELLS, LAYERS, Layer, functions_of

# The operators, and the order of PyTorch's gates in which ONNX has them.
_ONNX = {
    "lstm": ("LSTM", (0, 3, 1, 2)),
    "gru": ("GRU", (1, 0, 2)),
    "gru_reset_before": ("GRU", (1, 0, 2)),
    "rnn": ("RNN", (0,)),
}
_FUNCTIONS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "hard_sigmoid": "HardSigmoid",
    "softsign": "Softsign",
}

#: A step: the part of the gates that is x's, and the state -> the new state, y's part first.
Step = Callable[[Body, str, Sequence[str]], list[str]]


def codebook(name: str) -> Callable[[Body, Signature], list[str]]:
    """``ops.reference_recurrent.codebook_recurrent`` of a layer of ``LAYERS``."""
    kind = LAYERS[name]

    def written(body: Body, signature: Signature) -> list[str]:
        return _codebook(body, signature, kind)

    return written


def recurrent(body: Body, signature: Signature) -> list[str]:
    """``ops.reference_recurrent.recurrent``."""
    options, cell = signature.attributes, signature.attributes["cell"]
    biases = [one if one in signature.inputs else "" for one in ("bias_ih", "bias_hh")]
    state = STATE[: CELLS[cell].states]
    functions = functions_of(cell, options.get("functions", ""))
    if "weight_hr" not in signature.inputs:
        weights = "weight_ih", "weight_hh"
        return _node(body, signature, cell, state, weights, biases, functions)
    three = [f"weight_{one}" for one in ("ih", "hh", "hr")]
    return _projected(body, signature, three, biases)


def _projected(
    body: Body, signature: Signature, weights: Sequence[str], biases: Sequence[str]
) -> list[str]:
    """An LSTM that projects h, of three float weights; ONNX has none."""
    ih, hh, hr = (body("Transpose", one, perm=[1, 0]) for one in weights)

    def step(inner: Body, from_x: str, now: Sequence[str]) -> list[str]:
        gates = inner("Add", from_x, inner("MatMul", now[0], hh))
        h, c = _lstm_cell(inner, gates, biases[1], now[1])
        return [inner("MatMul", h, hr), c]

    from_x = body("MatMul", "x", ih)
    from_x = body("Add", from_x, biases[0]) if biases[0] else from_x
    return _scan(body, signature, step, from_x, STATE, bool(signature.attributes["reverse"]))


def _codebook(body: Body, signature: Signature, kind: Layer) -> list[str]:
    activation = signature.attributes["activation"]
    coded = [Coded.of(signature.inputs, signature.attributes, one) for one in kind.parts]
    names = [f"bias{one}" for one in kind.biases]
    biases = [one if one in signature.inputs else "" for one in names]
    state = STATE[: len(kind.states)]
    if activation == "fp32":
        weights = [expanded(body, one) for one in coded]
        both = [*biases, ""][:2]
        if len(weights) > 2:
            return _projected(body, signature, weights, both)
        functions = functions_of(kind.cell, kind.functions)
        return _node(body, signature, kind.cell, state, weights, both, functions)
    of_x, *of_h = (Operand.of(body, one, activation) for one in coded)

    def step(inner: Body, from_x: str, now: Sequence[str]) -> list[str]:
        from_h = product(inner, now[0], of_h[0])
        if kind.cell == "gru":
            return [_gru_cell(inner, from_x, from_h, biases, now[0])]
        gates = inner("Add", from_x, from_h)
        if kind.cell == "rnn":
            gates = inner("Add", gates, biases[0]) if biases[0] else gates
            return [inner("Relu" if kind.functions == "relu" else "Tanh", gates)]
        h, c = _lstm_cell(inner, gates, biases[0], now[1])
        return [product(inner, h, of_h[1]) if len(of_h) > 1 else h, c]

    from_x = product(body, "x", of_x)
    return _scan(body, signature, step, from_x, state, bool(signature.attributes["reverse"]))


def _node(
    body: Body,
    signature: Signature,
    cell: str,
    state: Sequence[str],
    weights: Sequence[str],
    biases: Sequence[str],
    functions: Sequence[str],
) -> list[str]:
    """ONNX's own operator."""
    operator, order = _ONNX[cell]
    options = signature.attributes
    gates, count = body.sizes(*order), len(order)

    def ordered(value: str, *sizes: int) -> str:
        return body("Gather", body.reshape(value, count, -1, *sizes), gates, axis=0)

    w, r = (
        body("Unsqueeze", _flat(body, body("Gather", _apart(body, one, count), gates)), zero)
        for zero in [body.sizes(0)]
        for one in weights
    )
    bias = ""
    if any(biases):
        given = [ordered(one) if one else "" for one in biases]
        some = next(one for one in given if one)
        nothing = body("Mul", some, body.constant(0.0)) if "" in given else ""
        both = [body.reshape(one or nothing, 1, -1) for one in given]
        bias = body("Concat", *both, axis=1)
    lengths = body.cast("lengths", INT32) if "lengths" in signature.inputs else ""
    x = body("Transpose", "x", perm=[1, 0, 2])
    first = [body("Unsqueeze", one, body.sizes(0)) for one in state]
    own = [_FUNCTIONS[one] for one in functions]
    more = {"clip": float(options["clip"])} if options.get("clip") else {}
    if operator == "GRU":
        more["linear_before_reset"] = int(cell == "gru")
    y, *last = body.several(
        operator,
        1 + len(state),
        x,
        w,
        r,
        bias,
        lengths,
        *first,
        hidden_size=options["hidden_size"],
        direction="reverse" if options["reverse"] else "forward",
        activations=own,
        **more,
    )
    y = body("Transpose", body("Squeeze", y, body.sizes(1)), perm=[1, 0, 2])
    ends = [body("Squeeze", one, body.sizes(0)) for one in last]
    if lengths:
        empty = body("Unsqueeze", body("Equal", lengths, body.constant(0, np.int32)), body.sizes(1))
        ends = [body("Where", empty, *both) for both in zip(state, ends, strict=True)]
    return [y, *ends]


def _apart(body: Body, weight: str, count: int) -> str:
    """A weight [G * H, I] as [G, H, I]."""
    width = body("Shape", weight, start=1)
    return body("Reshape", weight, body("Concat", body.sizes(count, -1), width, axis=0))


def _flat(body: Body, weight: str) -> str:
    width = body("Shape", weight, start=2)
    return body("Reshape", weight, body("Concat", body.sizes(-1), width, axis=0))


def _scan(
    body: Body,
    signature: Signature,
    step: Step,
    from_x: str,
    state: Sequence[str],
    reverse: bool,
) -> list[str]:
    """The steps over all frames: y f32 [B, T, P] and the last state."""
    frames = body("Transpose", from_x, perm=[1, 0, 2])
    inner = Body(f"{frames}_")
    names = [f"{frames}_{one}" for one in state]
    inputs = {**dict.fromkeys(names, FLOAT), f"{frames}_x": FLOAT}
    given = [frames]
    if "lengths" in signature.inputs:
        zero, one = (body.constant(value, np.int64) for value in (0, 1))
        at = body("Range", zero, body("Squeeze", body("Shape", frames, start=0, end=1)), one)
        there = body("Less", body("Unsqueeze", at, body.sizes(1)), "lengths")
        given.append(body("Unsqueeze", there, body.sizes(2)))
        inputs[f"{frames}_there"] = BOOL
    new = step(inner, f"{frames}_x", names)
    y = new[0]
    if "lengths" in signature.inputs:
        there = f"{frames}_there"
        y = inner("Where", there, y, inner.constant(0.0))
        new = [inner("Where", there, *both) for both in zip(new, names, strict=True)]
    else:
        y = inner("Identity", y)
    graph = inner.graph(f"{frames}_step", inputs, [(one, FLOAT) for one in (*new, y)])
    *last, y = body.several(
        "Scan",
        len(state) + 1,
        *state,
        *given,
        body=graph,
        num_scan_inputs=len(given),
        scan_input_directions=[int(reverse)] * len(given),
        scan_output_directions=[int(reverse)],
    )
    return [body("Transpose", y, perm=[1, 0, 2]), *last]


def _lstm_cell(body: Body, gates: str, bias: str, c: str) -> list[str]:
    """The new h and c."""
    gates = body("Add", gates, bias) if bias else gates
    i, f, g, o = body.several("Split", 4, gates, axis=1, num_outputs=4)
    kept = body("Mul", body("Sigmoid", f), c)
    c = body("Add", kept, body("Mul", body("Sigmoid", i), body("Tanh", g)))
    return [body("Mul", body("Sigmoid", o), body("Tanh", c)), c]


def _gru_cell(body: Body, from_x: str, from_h: str, biases: Sequence[str], h: str) -> str:
    """The new h."""
    (r_x, z_x, n_x), (r_h, z_h, n_h) = (
        body.several("Split", 3, body("Add", part, bias) if bias else part, axis=1, num_outputs=3)
        for part, bias in zip((from_x, from_h), biases, strict=True)
    )
    reset = body("Mul", body("Sigmoid", body("Add", r_x, r_h)), n_h)
    n = body("Tanh", body("Add", n_x, reset))
    update = body("Sigmoid", body("Add", z_x, z_h))
    return body("Add", n, body("Mul", update, body("Sub", h, n)))
