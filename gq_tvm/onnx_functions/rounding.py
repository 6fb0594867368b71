"""How rows of floats become rows of integers, in nodes: ``ops.rounding`` bit for bit.

DynamicQuantizeLinear is something else: it has a zero point, and one scale for all rows.
"""

from __future__ import annotations

import numpy as np

from gq_tvm.onnx_functions.body import BOOL, DOUBLE, FLOAT, Body
from gq_tvm.ops.rounding import INT2_STEP, MEAN_STEPS, SMALLEST_LIVE

_LARGEST = np.finfo(np.float32).max


class _Rows:
    """What is known of the rows of a tensor f32 [..., K]: f32 or bool [..., 1] each."""

    def __init__(self, body: Body, x: str) -> None:
        self.magnitudes = body("Abs", x)
        # Largest values of NaNs are anything in ONNX Runtime, so these are looked for.
        known = body.cast(body("LessOrEqual", self.magnitudes, body.constant(_LARGEST)), FLOAT)
        self.finite = body.cast(body("ReduceMin", known, body.sizes(-1), keepdims=1), BOOL)
        largest = body("ReduceMax", self.magnitudes, body.sizes(-1), keepdims=1)
        live = body("GreaterOrEqual", largest, body.constant(SMALLEST_LIVE))
        self.live = body("And", self.finite, live)
        self.largest = body("Where", self.live, largest, body.constant(1.0))
        self.dead = body("Where", self.finite, body.constant(0.0), body.constant(np.nan))


def rounded(body: Body, x: str, activation: str) -> tuple[str, str]:
    """Integers for each row, and what brings them back.

    Args:
        body: Where nodes are written.
        x: f32 [..., K].
        activation: ``"int8"``, ``"int2"`` or ``"int1"``.

    Returns:
        Integers as f32 [..., K], and scales f32 [..., 1].
    """
    rows = _Rows(body, x)
    zero = body.constant(0.0)
    if activation == "int8":
        inverse = body("Div", body.constant(127.0), rows.largest)
        q = body("Round", body("Mul", body("Where", rows.live, x, zero), inverse))
        scale = body("Div", rows.largest, body.constant(127.0))
        return q, body("Where", rows.live, scale, rows.dead)
    scale = _mean(body, x, rows, INT2_STEP if activation == "int2" else 1.0)
    negative = body("Less", x, zero)
    if activation == "int1":
        return body("Where", negative, body.constant(-1.0), body.constant(1.0)), scale
    far = body("Greater", rows.magnitudes, body("Add", scale, scale))
    q = body("Where", far, body.constant(3.0), body.constant(1.0))
    return body("Where", negative, body("Neg", q), q), scale


def _mean(body: Body, x: str, rows: _Rows, times: float) -> str:
    """Means of magnitudes times a factor."""
    steps = body.constant(float(MEAN_STEPS))
    live = body("Where", rows.live, rows.magnitudes, body.constant(0.0))
    on_grid = body("Round", body("Mul", live, body("Div", steps, rows.largest)))
    total = body("ReduceSum", body.cast(on_grid, DOUBLE), body.sizes(-1), keepdims=1)
    width = body.cast(body("Shape", x, start=-1), FLOAT)
    mean = body("Div", body.cast(total, FLOAT), width)
    mean = body("Mul", body("Div", rows.largest, steps), mean)
    # Here, as ONNX Runtime would join a product at the end with one behind it.
    mean = body("Mul", mean, body.constant(times)) if times != 1.0 else mean
    return body("Where", rows.live, mean, rows.dead)
