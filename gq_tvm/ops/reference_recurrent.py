"""The recurrent codebook operators in NumPy; see ``reference``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops.checks import check_gru, check_lstm
from gq_tvm.ops.reference import F32, product
from gq_tvm.ops.weight import Weight


def codebook_lstm(
    x: F32,
    h0: F32,
    c0: F32,
    weight_ih: Weight,
    weight_hh: Weight,
    bias: F32 | None,
    activation: str,
) -> tuple[F32, F32, F32]:
    """One LSTM layer in one direction, batch first, gates in the order i, f, g, o.

    Args:
        x: f32 [B, T, I].
        h0: f32 [B, H].
        c0: f32 [B, H].
        weight_ih: [4H, I].
        weight_hh: [4H, H].
        bias: f32 [4H], the sum of PyTorch's two biases, or None.
        activation: as for ``codebook_linear``; x is rounded once per frame, h once per step.

    Returns:
        y f32 [B, T, H], and the last h and c, f32 [B, H].

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    op = "codebook_lstm"
    weight_ih.check(op)
    weight_hh.check(op)
    check_lstm(op, x, h0, c0, weight_ih.indices.shape, weight_hh.indices.shape, bias, activation)
    dtype = _carried(activation)
    h: NDArray = h0.astype(dtype)
    c: NDArray = c0.astype(dtype)
    from_x = product(x.astype(dtype), weight_ih, activation)
    y = np.empty((*x.shape[:2], h0.shape[1]), np.float32)
    for t in range(x.shape[1]):
        gates = from_x[:, t] + product(h, weight_hh, activation)
        if bias is not None:
            gates = gates + bias
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        y[:, t] = h
    return y, h.astype(np.float32), c.astype(np.float32)


def codebook_gru(
    x: F32,
    h0: F32,
    weight_ih: Weight,
    weight_hh: Weight,
    bias_ih: F32 | None,
    bias_hh: F32 | None,
    activation: str,
) -> tuple[F32, F32]:
    """One GRU layer in one direction, batch first, gates in the order r, z, n.

    PyTorch's: ``n = tanh(x-part + r * h-part)``, the h-part with its bias, ``h = (1 - z) n + z h``.

    Args:
        x: f32 [B, T, I].
        h0: f32 [B, H].
        weight_ih: [3H, I].
        weight_hh: [3H, H].
        bias_ih: f32 [3H] or None.
        bias_hh: f32 [3H] or None.
        activation: as for ``codebook_linear``; x is rounded once per frame, h once per step.

    Returns:
        y f32 [B, T, H], and the last h, f32 [B, H].

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    op = "codebook_gru"
    weight_ih.check(op)
    weight_hh.check(op)
    shapes = weight_ih.indices.shape, weight_hh.indices.shape
    check_gru(op, x, h0, *shapes, bias_ih, bias_hh, activation)
    dtype = _carried(activation)
    h: NDArray = h0.astype(dtype)
    from_x = product(x.astype(dtype), weight_ih, activation)
    from_x = from_x if bias_ih is None else from_x + bias_ih
    y = np.empty((*x.shape[:2], h0.shape[1]), np.float32)
    for t in range(x.shape[1]):
        from_h = product(h, weight_hh, activation)
        from_h = from_h if bias_hh is None else from_h + bias_hh
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (np.split(p, 3, axis=1) for p in (from_x[:, t], from_h))
        n = np.tanh(n_x + sigmoid(r_x + r_h) * n_h)
        z = sigmoid(z_x + z_h)
        h = (1 - z) * n + z * h
        y[:, t] = h
    return y, h.astype(np.float32)


def _carried(activation: str) -> type[np.floating]:
    # float64 carries the exact path; the others are float32 throughout, as kernels compute them.
    return np.float64 if activation == "fp32" else np.float32


def sigmoid(x: NDArray) -> NDArray:
    """The logistic function, without overflow at either end."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)
