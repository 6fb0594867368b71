"""The codebook operators in NumPy: the definition every kernel is held to.

Written for plainness, not speed. With activations ``"int8"``, ``"int2"`` and ``"int1"`` the
integers are exact; with ``"fp32"`` sums are taken in float64 and rounded once, so a kernel is right
when it is within 1e-5 relative L2 error. Recurrent layers are in ``reference_recurrent``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error
from gq_tvm.ops.checks import (
    check_convolution,
    check_dtype,
    check_frames,
    check_ids,
    check_linear,
)
from gq_tvm.ops.rounding import ROW_QUANTIZERS, quantize_rows
from gq_tvm.ops.weight import Weight

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

# Groups of weights whose partial sums share a scale in `rounded_table_linear`.
BLOCK_GROUPS = 16


def product(x: NDArray, weight: Weight, activation: str) -> NDArray:
    """``x W^T``, what every operator with a matrix in it means by that.

    With ``"fp32"`` it is a product of floats, in float64. Otherwise each row of x becomes integers
    q times its scale, and each table integers times its own. A weight with a scale for each row (or
    for the tensor) and no zero points is one sum of integers: ``f32(sum) * (scale_x * s)``. Else
    each group j gives the term ``f32(sum of q g) * s_j - f32(sum of q) * z_j``, s_j being the
    group's scale times its table's and z_j its scale times its zero point (no zero points, no
    second product); the terms are added in rising order of groups, then multiplied by scale_x. Each
    of these products and sums is rounded to float32. To that `outlier_sums` are added.

    Sums of integers are int32 in kernels and hold for K up to 133 144; these never wrap.

    Args:
        x: float [..., K].
        weight: [N, K].
        activation: ``"fp32"``, or one of ``ROW_QUANTIZERS``.

    Returns:
        f64 [..., N] for ``"fp32"``, else f32.
    """
    if activation == "fp32":
        flat = weight.expand().reshape(weight.rows, weight.width)
        return x.astype(np.float64) @ flat.astype(np.float64).T
    q, scale_x = ROW_QUANTIZERS[activation](x)
    grid, scale, zero, _ = weight.on_grid()
    integers, rows = weight.looked_up(grid).astype(np.int64), q.astype(np.int64)
    if weight.groups == 1 and zero is None:
        y = (rows @ integers.T).astype(np.float32) * (scale_x[..., None] * scale[:, 0])
        return _with_outliers(y, x, weight)
    y = np.zeros((*x.shape[:-1], weight.rows), np.float32)
    for j in range(weight.groups):
        inputs = slice(j * weight.group, (j + 1) * weight.group) if weight.group else slice(None)
        part = rows[..., inputs]
        term = (part @ integers[:, inputs].T).astype(np.float32) * scale[:, j]
        if zero is not None:
            term = term - part.sum(axis=-1, keepdims=True).astype(np.float32) * zero[:, j]
        y = y + term if j else term
    return _with_outliers(y * scale_x[..., None], x, weight)


def outlier_sums(x: NDArray, weight: Weight) -> F32:
    """What a weight's outliers add to ``x W^T``: sums of value times activation, not rounded.

    Those of a row are added in the order of their columns, each product and each sum rounded to
    float32.

    Args:
        x: float [..., K].
        weight: [N, K].

    Returns:
        f32 [..., N].
    """
    sums = np.zeros((weight.rows, *x.shape[:-1]), np.float32)
    if weight.outliers is not None:
        rows, columns = np.divmod(weight.outliers.positions, weight.width)
        values = weight.outliers.values.astype(np.float32)
        products = np.moveaxis(x.astype(np.float32)[..., columns] * values, -1, 0)
        np.add.at(sums, rows, products)
    return np.moveaxis(sums, 0, -1)


def _with_outliers(y: F32, x: NDArray, weight: Weight) -> F32:
    return y if weight.outliers is None else y + outlier_sums(x, weight)


def codebook_linear(x: F32, weight: Weight, bias: F32 | None, activation: str) -> F32:
    """``x W^T + bias`` with W in a codebook.

    Args:
        x: f32 [..., K].
        weight: [N, K].
        bias: f32 [N] or None.
        activation: ``"fp32"``, ``"int8"``, ``"int2"`` or ``"int1"``.

    Returns:
        f32 [..., N].

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    op = "codebook_linear"
    weight.check(op)
    check_linear(op, x, weight.indices.shape, bias, activation)
    y = product(x, weight, activation)
    return (y if bias is None else y + bias).astype(np.float32)


def rounded_table_linear(x: F32, weight: Weight) -> F32:
    """``x W^T`` by tables of partial sums rounded to 8 bits: what the family ``table8`` computes.

    K is cut into groups of ``4 / bits`` weights, and these into blocks of `BLOCK_GROUPS`. In each
    group the sums of centroid x activation are taken in float32 for all 16 values of its indices;
    a block's sums are rounded to int8 by a scale of their own, half to even. That errs by about 1%
    of y (relative L2), whether or not the activations were int8 before.

    Args:
        x: f32 [M, K].
        weight: [N, K] of 1 or 2 bits, with one table, a scale a row at most and no zero points.

    Returns:
        f32 [M, N]; NaN for rows with NaN or infinity.

    Raises:
        Error: the weight has more tables, groups or zero points.
    """
    weight.check("rounded_table_linear")
    if len(weight.codebook) > 1 or weight.groups > 1 or weight.zero is not None:
        raise Error("rounded_table_linear: the weight needs one table and scales of rows.")
    indices, bits = weight.indices, weight.bits
    group = 4 // bits
    blocks = -(-indices.shape[1] // (group * BLOCK_GROUPS))
    padding = ((0, 0), (0, blocks * group * BLOCK_GROUPS - indices.shape[1]))
    rows = np.pad(x, padding).reshape(len(x), blocks, BLOCK_GROUPS, group)
    codes = np.pad(indices, padding).reshape(len(indices), blocks, BLOCK_GROUPS, group)
    nibbles = np.bitwise_or.reduce(codes << bits * np.arange(group, dtype=np.uint8), axis=-1)
    part = np.arange(16) >> bits * np.arange(group)[:, None] & (1 << bits) - 1
    with np.errstate(invalid="ignore"):
        terms = rows[..., None] * weight.codebook[0][part]  # [M, blocks, groups, group, 16]
        sums = np.add.accumulate(terms, axis=3, dtype=np.float32)[..., -1, :]
    q, scale_block = quantize_rows(sums.reshape(len(x), blocks, -1))
    q = q.reshape(sums.shape).astype(np.int32)
    y = np.zeros((len(x), len(indices)), np.float32)
    for block in range(blocks):
        found = q[:, block, np.arange(BLOCK_GROUPS), nibbles[:, block]]  # [M, N, groups]
        y += found.sum(axis=-1).astype(np.float32) * scale_block[:, block, None]
    return _with_outliers(y * weight.scales()[:, 0], x, weight)


def codebook_conv1d(
    x: F32,
    weight: Weight,
    bias: F32 | None,
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
        weight: [N, C / groups, k].
        bias: f32 [N] or None.
        stride: frames between outputs.
        padding: zero frames at either end.
        dilation: frames between taps.
        groups: 1, or a divisor of C and N; what a group reads is a row of its own, to be rounded.
            One channel a group requires ``activation="fp32"``.
        activation: as for ``codebook_linear``.

    Returns:
        f32 [B, N, T'], T' = (T + 2 padding - dilation (k - 1) - 1) // stride + 1.

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    sizes = [stride], [padding], [dilation]
    return _convolution("codebook_conv1d", x, weight, bias, *sizes, groups, activation)


def codebook_conv2d(
    x: F32,
    weight: Weight,
    bias: F32 | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> F32:
    """Conv2d over a zero-padded map with its weight in a codebook.

    It equals ``codebook_linear`` on rows of C * h * w unfolded values, channel major, each row
    quantised on its own unless ``activation="fp32"``.

    Args:
        x: f32 [B, C, H, W].
        weight: [N, C, h, w].
        bias: f32 [N] or None.
        stride: rows and columns between outputs.
        padding: zero rows above and below, and zero columns at either side.
        dilation: rows and columns between taps.
        activation: as for ``codebook_linear``.

    Returns:
        f32 [B, N, H', W'], sizes as of ``codebook_conv1d``.

    Raises:
        Error: a shape, dtype, index or option is wrong.
    """
    return _convolution(
        "codebook_conv2d", x, weight, bias, stride, padding, dilation, 1, activation
    )


def _convolution(
    op: str,
    x: F32,
    weight: Weight,
    bias: F32 | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> F32:
    axes = len(stride)
    weight.check(op, ndim=2 + axes)
    check_convolution(op, x, weight.indices.shape, bias, groups, activation)
    rows_out, _, *taps = weight.indices.shape
    padded = np.pad(x, ((0, 0), (0, 0), *((one, one) for one in padding)))
    reach = [apart * (count - 1) + 1 for apart, count in zip(dilation, taps, strict=True)]
    check_frames(op, *(size - one + 1 for size, one in zip(padded.shape[2:], reach, strict=True)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + axes)))
    steps = (slice(None, None, one) for one in (*stride, *dilation))
    windows = np.moveaxis(windows[(slice(None), slice(None), *steps)], 1, 1 + axes)
    batch, *sizes = windows.shape[: 1 + axes]  # [B, ..., C, ...]
    if groups == 1:
        y = product(windows.reshape(batch, *sizes, -1), weight, activation)
        y = (y if bias is None else y + bias).astype(np.float32)
        return np.ascontiguousarray(np.moveaxis(y, -1, 1))
    if activation != "fp32":
        rows = windows.reshape(batch, *sizes, groups, -1)
        y = np.concatenate(
            [
                product(rows[..., group, :], part, activation)
                for group, part in enumerate(weight.split_rows(groups))
            ],
            -1,
        )
        y = (y if bias is None else y + bias).astype(np.float32)
        return np.ascontiguousarray(np.moveaxis(y, -1, 1))
    floats = weight.expand().astype(np.float64).reshape(groups, rows_out // groups, -1)
    rows = windows.reshape(batch, prod(sizes), groups, -1).astype(np.float64)
    y64 = np.einsum("btgk,gnk->bgnt", rows, floats).reshape(batch, rows_out, -1)
    y64 = y64 if bias is None else y64 + bias[:, None]
    return y64.astype(np.float32).reshape(batch, rows_out, *sizes)


def codebook_embedding(ids: I64, weight: Weight) -> F32:
    """Look rows up in an embedding kept in a codebook.

    Args:
        ids: i64 [...], values in [0, V).
        weight: [V, D].

    Returns:
        f32 [..., D].

    Raises:
        Error: a shape, dtype, index, id or option is wrong.
    """
    op = "codebook_embedding"
    check_dtype(op, ids=(ids, "int64"))
    weight.check(op)
    if ids.size:
        check_ids(op, int(ids.min()), int(ids.max()), weight.rows)
    return weight.expand()[ids]
