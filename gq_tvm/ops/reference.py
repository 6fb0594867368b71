"""The codebook operators in NumPy: the definition every kernel is held to.

Written for plainness, not speed. Weights are ``indices`` (u8 [N, K]) into a ``codebook``
(f32 [G, 2^bits], G = 1, or N for a codebook scale per row). With activations ``"int8"``,
``"int2"`` and ``"int1"`` the integers are exact; with ``"fp32"`` sums are taken in float64 and
rounded once, so a kernel is right when it is within 1e-5 relative L2 error.

The integer schemes (dynamic, symmetric, per row; codebook on an int8 grid) are our choice, not the
GQ paper's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error
from gq_tvm.ops.checks import (
    check_activation,
    check_conv1d,
    check_dtype,
    check_frames,
    check_gru_shapes,
    check_ids,
    check_largest_index,
    check_linear_shapes,
    check_lstm_shapes,
    check_weight,
)

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]

# Rows smaller than this count as zero: 127 / amax stays finite and no subnormal matters.
# Groups of weights whose partial sums share a scale in `rounded_table_linear`.
BLOCK_GROUPS = 16

SMALLEST_LIVE = np.float32(2.0**-100)
# Steps of the grid a mean is taken on: as many as keep the sums of an int8 product's rows in int32.
MEAN_STEPS = 127**2
# The step of "int2" over the mean magnitude. Of a normal row, 0.624 loses least (J. Max, 1960).
INT2_STEP = 0.625


def quantize_rows(x: F32) -> tuple[I8, F32]:
    """Quantise each row (last axis) to int8, symmetric, round half to even.

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` i8 [..., K] in [-127, 127] and ``scale`` f32 [...] with ``x ~ q * scale``. A row
        below 2^-100 has q = 0, scale = 0; a row with NaN or infinity has q = 0, scale = NaN.
    """
    x = np.asarray(x, np.float32)
    amax = np.abs(x).max(axis=-1, initial=np.float32(0))
    finite = np.isfinite(amax)
    live = finite & (amax >= SMALLEST_LIVE)
    safe = np.where(live, amax, np.float32(1))
    inv = np.float32(127) / safe
    scale = np.where(live, safe / np.float32(127), np.where(finite, np.float32(0), np.nan))
    rows = np.where(live[..., None], x, np.float32(0))
    return np.rint(rows * inv[..., None]).astype(np.int8), scale.astype(np.float32)


def mean_magnitudes(x: F32) -> F32:
    """The mean of |x| over each row (last axis), the same in whatever order it is summed.

    What is summed are integers: |x| on a grid of ``MEAN_STEPS`` steps up to the row's largest.
    It is off by half a step at most.

    Args:
        x: f32 [..., K].

    Returns:
        f32 [...]: 0 for a row below 2^-100, NaN for one with NaN or infinity.
    """
    x = np.asarray(x, np.float32)
    amax = np.abs(x).max(axis=-1, initial=np.float32(0))
    finite = np.isfinite(amax)
    live = finite & (amax >= SMALLEST_LIVE)
    safe = np.where(live, amax, np.float32(1))
    steps, k = np.float32(MEAN_STEPS), np.float32(max(1, x.shape[-1]))
    magnitudes = np.abs(np.where(live[..., None], x, np.float32(0)))
    total = np.rint(magnitudes * (steps / safe)[..., None]).astype(np.int64).sum(axis=-1)
    mean = (safe / steps) * (total.astype(np.float32) / k)
    return np.where(live, mean, np.where(finite, np.float32(0), np.nan)).astype(np.float32)


def quantize_rows_int1(x: F32) -> tuple[I8, F32]:
    """Keep the sign of each element, and one scale a row: what approximates it best.

    Zero counts as positive, -0 as well. The scale of least squared error for signs is the mean
    magnitude (Rastegari et al., XNOR-Net, 2016, section 3.1).

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` i8 [..., K], -1 or 1, and ``scale`` f32 [...], as ``mean_magnitudes`` gives it: 0 or
        NaN decides about a row whatever its q.
    """
    x = np.asarray(x, np.float32)
    return np.where(x < 0, -1, 1).astype(np.int8), mean_magnitudes(x)


def quantize_rows_int2(x: F32) -> tuple[I8, F32]:
    """Round each element to the nearest of -3, -1, 1, 3 times a step; one step a row.

    The step is 5/8 of the mean magnitude. Zero counts as positive, -0 as well, and what lies
    halfway between 1 and 3 steps becomes 1.

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` i8 [..., K], one of -3, -1, 1, 3, and ``scale`` f32 [...]: 0 or NaN where
        ``mean_magnitudes`` is, whatever the row's q.
    """
    x = np.asarray(x, np.float32)
    scale = mean_magnitudes(x) * np.float32(INT2_STEP)
    with np.errstate(over="ignore"):  # beyond the largest float there is no x
        q = np.where(np.abs(x) > (scale + scale)[..., None], 3, 1)
    return np.where(x < 0, -q, q).astype(np.int8), scale


#: How each integer kind of activations rounds: f32 [..., K] -> q i8 [..., K], scale f32 [...].
ROW_QUANTIZERS: dict[str, Callable[[F32], tuple[I8, F32]]] = {
    "int8": quantize_rows,
    "int2": quantize_rows_int2,
    "int1": quantize_rows_int1,
}


def quantize_codebook(codebook: F32) -> tuple[I8, F32]:
    """Put each codebook row on an int8 grid.

    Args:
        codebook: f32 [G, 2^bits].

    Returns:
        i8 [G, 2^bits] and the scale of each row, f32 [G].

    Raises:
        Error: a centroid is NaN or infinite.
    """
    grid, scale = quantize_rows(codebook)
    _check_finite(scale)
    return grid, scale


def _check_finite(codebook: F32) -> None:
    if not np.isfinite(codebook).all():
        raise Error("codebook: a centroid is NaN or infinite; the model cannot be quantised.")


def expand(indices: NDArray, codebook: NDArray) -> NDArray:
    """The weight behind ``indices`` [N, ...]: same shape, dtype of the codebook."""
    if codebook.shape[0] == 1:
        return codebook[0][indices]
    rows = np.arange(indices.shape[0]).reshape(-1, *[1] * (indices.ndim - 1))
    return codebook[rows, indices]


def common_codebook(codebook: F32, activation: str) -> tuple[F32, F32]:
    """Split a codebook into the one shape its rows share and a factor per row.

    Args:
        codebook: f32 [G, 2^bits].
        activation: ``"fp32"`` compares the rows divided by their largest magnitude, within 1e-5;
            the integer kinds compare them on their int8 grids.

    Returns:
        ``shape`` f32 [2^bits] (for fp32: within [-1, 1]; else integers in [-127, 127]) and
        ``scale`` f32 [G] with ``codebook ~ scale[:, None] * shape``.

    Raises:
        Error: a centroid is NaN or infinite, or the rows are not multiples of one codebook.
    """
    check_activation("codebook", activation)
    rows: NDArray
    if activation != "fp32":
        grid, scale = quantize_codebook(codebook)
        rows = grid.astype(np.float32)
        tolerance = 0.0
    else:
        _check_finite(codebook)
        scale = np.abs(codebook).max(axis=1)
        rows = codebook / np.where(scale > 0, scale, np.float32(1))[:, None]
        tolerance = 1e-5
    alive = rows[scale > 0]  # a row of zeros is a multiple of anything
    shape = alive[0] if len(alive) else rows[0]
    if len(alive) and np.abs(alive - shape).max() > tolerance:
        raise Error(
            "codebook: rows are not multiples of one codebook; use one codebook for the tensor "
            "or scale it per row."
        )
    return shape.astype(np.float32), scale.astype(np.float32)


def linear_accumulators(
    x: F32, indices: U8, codebook: F32, activation: str = "int8"
) -> tuple[I64, F32]:
    """The integers a kernel sums, and the factor that makes them floats.

    A kernel's sums are int32, and hold for K up to 133 144; these never wrap.

    Args:
        x: f32 [..., K].
        indices: u8 [N, K].
        codebook: f32 [G, 2^bits].
        activation: one of ``ROW_QUANTIZERS``.

    Returns:
        ``acc`` i64 [..., N] and ``factor`` f32 [..., N]; the product is ``acc * factor``.
    """
    q, scale_x = ROW_QUANTIZERS[activation](x)
    grid, scale_w = quantize_codebook(codebook)
    acc = q.astype(np.int64) @ expand(indices, grid).astype(np.int64).T
    factor = scale_x[..., None] * np.broadcast_to(scale_w, indices.shape[:1])
    return acc, factor


def codebook_linear(
    x: F32, indices: U8, codebook: F32, bias: F32 | None, bits: int, activation: str
) -> F32:
    """``x W^T + bias`` with W in a codebook.

    Args:
        x: f32 [..., K].
        indices: u8 [N, K], values below 2^bits.
        codebook: f32 [1 or N, 2^bits].
        bias: f32 [N] or None.
        bits: 1 to 8.
        activation: ``"fp32"``, ``"int8"``, ``"int2"`` or ``"int1"``.

    Returns:
        f32 [..., N].

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    _check_linear("codebook_linear", x, indices, codebook, bias, bits, activation)
    if activation != "fp32":
        acc, factor = linear_accumulators(x, indices, codebook, activation)
        y = acc.astype(np.float32) * factor
        return y if bias is None else y + bias
    y64 = x.astype(np.float64) @ expand(indices, codebook).astype(np.float64).T
    return (y64 if bias is None else y64 + bias).astype(np.float32)


def rounded_table_linear(x: F32, indices: U8, codebook: F32, bits: int) -> F32:
    """``x W^T`` by tables of partial sums rounded to 8 bits: what the family ``table8`` computes.

    K is cut into groups of ``4 / bits`` weights, and these into blocks of `BLOCK_GROUPS`. In each
    group the sums of centroid x activation are taken in float32 for all 16 values of its indices;
    a block's sums are rounded to int8 by a scale of their own, half to even. That errs by about 1%
    of y (relative L2), whether or not the activations were int8 before.

    Args:
        x: f32 [M, K].
        indices: u8 [N, K].
        codebook: f32 [1 or N, 2^bits], rows that are multiples of one.
        bits: 1 or 2.

    Returns:
        f32 [M, N]; NaN for rows with NaN or infinity.

    Raises:
        Error: the rows of the codebook are not multiples of one.
    """
    shape, scale = common_codebook(codebook, "fp32")
    group = 4 // bits
    blocks = -(-indices.shape[1] // (group * BLOCK_GROUPS))
    padding = ((0, 0), (0, blocks * group * BLOCK_GROUPS - indices.shape[1]))
    rows = np.pad(x, padding).reshape(len(x), blocks, BLOCK_GROUPS, group)
    codes = np.pad(indices, padding).reshape(len(indices), blocks, BLOCK_GROUPS, group)
    nibbles = np.bitwise_or.reduce(codes << bits * np.arange(group, dtype=np.uint8), axis=-1)
    part = np.arange(16) >> bits * np.arange(group)[:, None] & (1 << bits) - 1
    with np.errstate(invalid="ignore"):
        terms = rows[..., None] * shape[part]  # [M, blocks, groups, group, 16]
        sums = np.add.accumulate(terms, axis=3, dtype=np.float32)[..., -1, :]
    q, scale_block = quantize_rows(sums.reshape(len(x), blocks, -1))
    q = q.reshape(sums.shape).astype(np.int32)
    y = np.zeros((len(x), len(indices)), np.float32)
    for block in range(blocks):
        found = q[:, block, np.arange(BLOCK_GROUPS), nibbles[:, block]]  # [M, N, groups]
        y += found.sum(axis=-1).astype(np.float32) * scale_block[:, block, None]
    return y * scale


def codebook_lstm(
    x: F32,
    h0: F32,
    c0: F32,
    indices_ih: U8,
    codebook_ih: F32,
    indices_hh: U8,
    codebook_hh: F32,
    bias: F32 | None,
    bits_ih: int,
    bits_hh: int,
    activation: str,
) -> tuple[F32, F32, F32]:
    """One LSTM layer in one direction, batch first, gates in the order i, f, g, o.

    Args:
        x: f32 [B, T, I].
        h0: f32 [B, H].
        c0: f32 [B, H].
        indices_ih: u8 [4H, I].
        codebook_ih: f32 [1 or 4H, 2^bits_ih].
        indices_hh: u8 [4H, H].
        codebook_hh: f32 [1 or 4H, 2^bits_hh].
        bias: f32 [4H], the sum of PyTorch's two biases, or None.
        bits_ih: 1 to 8.
        bits_hh: 1 to 8.
        activation: as for ``codebook_linear``; x is rounded once per frame, h once per step.

    Returns:
        y f32 [B, T, H], and the last h and c, f32 [B, H].

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    op = "codebook_lstm"
    check_lstm_shapes(op, x, h0, c0, indices_ih, indices_hh, bias)
    _check_linear(op, x, indices_ih, codebook_ih, bias, bits_ih, activation)
    _check_linear(op, h0, indices_hh, codebook_hh, None, bits_hh, activation)
    dtype = _carried(activation)
    h: NDArray = h0.astype(dtype)
    c: NDArray = c0.astype(dtype)
    from_x = _product(x.astype(dtype), indices_ih, codebook_ih, activation)
    y = np.empty((*x.shape[:2], h0.shape[1]), np.float32)
    for t in range(x.shape[1]):
        gates = from_x[:, t] + _product(h, indices_hh, codebook_hh, activation)
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
    indices_ih: U8,
    codebook_ih: F32,
    indices_hh: U8,
    codebook_hh: F32,
    bias_ih: F32 | None,
    bias_hh: F32 | None,
    bits_ih: int,
    bits_hh: int,
    activation: str,
) -> tuple[F32, F32]:
    """One GRU layer in one direction, batch first, gates in the order r, z, n.

    PyTorch's: ``n = tanh(x-part + r * h-part)``, the h-part with its bias, ``h = (1 - z) n + z h``.

    Args:
        x: f32 [B, T, I].
        h0: f32 [B, H].
        indices_ih: u8 [3H, I].
        codebook_ih: f32 [1 or 3H, 2^bits_ih].
        indices_hh: u8 [3H, H].
        codebook_hh: f32 [1 or 3H, 2^bits_hh].
        bias_ih: f32 [3H] or None.
        bias_hh: f32 [3H] or None.
        bits_ih: 1 to 8.
        bits_hh: 1 to 8.
        activation: as for ``codebook_linear``; x is rounded once per frame, h once per step.

    Returns:
        y f32 [B, T, H], and the last h, f32 [B, H].

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    op = "codebook_gru"
    check_gru_shapes(op, x, h0, indices_ih, indices_hh)
    _check_linear(op, x, indices_ih, codebook_ih, bias_ih, bits_ih, activation)
    _check_linear(op, h0, indices_hh, codebook_hh, bias_hh, bits_hh, activation)
    dtype = _carried(activation)
    h: NDArray = h0.astype(dtype)
    from_x = _product(x.astype(dtype), indices_ih, codebook_ih, activation)
    from_x = from_x if bias_ih is None else from_x + bias_ih
    y = np.empty((*x.shape[:2], h0.shape[1]), np.float32)
    for t in range(x.shape[1]):
        from_h = _product(h, indices_hh, codebook_hh, activation)
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


def _product(rows: NDArray, indices: U8, codebook: F32, activation: str) -> NDArray:
    if activation != "fp32":
        acc, factor = linear_accumulators(rows, indices, codebook, activation)
        return acc.astype(np.float32) * factor
    return rows @ expand(indices, codebook).astype(np.float64).T


def codebook_conv1d(
    x: F32,
    indices: U8,
    codebook: F32,
    bias: F32 | None,
    bits: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
) -> F32:
    """Conv1d over zero-padded frames with its weight in a codebook.

    With one group it equals ``codebook_linear`` on rows of C*k unfolded values (channel major,
    tap minor), each row quantised on its own unless ``activation="fp32"``.

    Args:
        x: f32 [B, C, T].
        indices: u8 [N, C / groups, k].
        codebook: f32 [1 or N, 2^bits].
        bias: f32 [N] or None.
        bits: 1 to 8.
        stride: frames between outputs.
        padding: zero frames at either end.
        dilation: frames between taps.
        groups: 1, or a divisor of C and N; more than one requires ``activation="fp32"``.
        activation: as for ``codebook_linear``.

    Returns:
        f32 [B, N, T'], T' = (T + 2 padding - dilation (k - 1) - 1) // stride + 1.

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    op = "codebook_conv1d"
    check_conv1d(op, x, indices, codebook, bias, bits, groups, activation)
    check_largest_index(op, int(indices.max(initial=0)), bits)
    batch, channels, _ = x.shape
    rows_out, group_channels, taps = indices.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
    frames = (padded.shape[2] - dilation * (taps - 1) - 1) // stride + 1
    check_frames(op, frames)
    at = np.arange(frames)[:, None] * stride + np.arange(taps) * dilation
    windows = padded[:, :, at].transpose(0, 2, 1, 3)  # [B, T', C, k]
    if groups == 1:
        rows = windows.reshape(batch, frames, channels * taps)
        flat = indices.reshape(rows_out, channels * taps)
        y = codebook_linear(rows, flat, codebook, bias, bits, activation)
        return np.ascontiguousarray(y.transpose(0, 2, 1))
    weight = expand(indices, codebook).astype(np.float64)
    weight = weight.reshape(groups, rows_out // groups, group_channels, taps)
    windows = windows.reshape(batch, frames, groups, group_channels, taps).astype(np.float64)
    y64 = np.einsum("btgck,gnck->bgnt", windows, weight).reshape(batch, rows_out, frames)
    return (y64 if bias is None else y64 + bias[:, None]).astype(np.float32)


def codebook_embedding(ids: I64, indices: U8, codebook: F32, bits: int) -> F32:
    """Look rows up in an embedding kept in a codebook.

    Args:
        ids: i64 [...], values in [0, V).
        indices: u8 [V, D].
        codebook: f32 [1 or V, 2^bits].
        bits: 1 to 8.

    Returns:
        f32 [..., D].

    Raises:
        Error: a shape, dtype, index, id or option is wrong.
    """
    op = "codebook_embedding"
    check_dtype(op, ids=(ids, "int64"))
    check_weight(op, indices, codebook, bits)
    check_largest_index(op, int(indices.max(initial=0)), bits)
    if ids.size:
        check_ids(op, int(ids.min()), int(ids.max()), indices.shape[0])
    return expand(indices, codebook)[ids]


def sigmoid(x: NDArray) -> NDArray:
    """The logistic function, without overflow at either end."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _check_linear(
    op: str,
    x: F32,
    indices: U8,
    codebook: F32,
    bias: F32 | None,
    bits: int,
    activation: str,
) -> None:
    check_linear_shapes(op, x, indices, codebook, bias, bits, activation)
    check_largest_index(op, int(indices.max(initial=0)), bits)
