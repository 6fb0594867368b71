"""Kernels of the layers that are no matrix product: embedding and grouped convolution.

Both read the codebook as it is, in float32, and keep the weight as `scalar.pack_rows` lays it out.
"""

# mypy: disable-error-code="valid-type"
# (TVMScript reads annotations as values.)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script import tirx as T

from gq_tvm.schedules.cpu.vector_math import SCALAR_MATH
from gq_tvm.schedules.family import OPAQUE
from gq_tvm.schedules.scalar.rows import index_at, pack_rows, row_bytes

NAME = "direct"  # what the table of layers calls these kernels


def pack(
    indices: NDArray[np.uint8], codebook: NDArray[np.float32], bits: int
) -> dict[str, NDArray]:
    """Operands: weights u8 [N * row_bytes + 1], table f32 [1 or N, 2^bits].

    Args:
        indices: u8 [N, ...]; the trailing axes form one row.
        codebook: f32 [1 or N, 2^bits].
        bits: 1 to 8.
    """
    rows = indices.reshape(len(indices), -1)
    return {"weights": pack_rows(rows, bits), "table": np.ascontiguousarray(codebook, np.float32)}


def embedding(shape: tuple[int, int], bits: int, codebooks: int) -> tirx.PrimFunc:
    """The kernel of an embedding [V, D]: ids i64 [m], the operands, y f32 [m, D] (output).

    An id without a row gives a row of NaN: a kernel cannot refuse, and must not crash.
    """
    vocabulary, width = shape
    m = tirx.Var("m", "int64")
    size, entries = vocabulary * row_bytes(width, bits) + 1, 2**bits

    @T.prim_func(s_tir=True)
    def direct_embedding(
        ids: T.Buffer((m,), "int64"),
        weights: T.Buffer((size,), "uint8"),
        table: T.Buffer((codebooks, entries), "float32"),
        y: T.Buffer((m, width), "float32"),
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        for i in range(m):
            if ids[i] >= T.int64(0) and ids[i] < T.int64(vocabulary):
                for j in range(width):
                    y[i, j] = table[
                        _codebook_row(ids[i], codebooks),
                        index_at(weights, ids[i], j, width, bits),
                    ]
            else:
                for j in range(width):
                    y[i, j] = T.float32("nan")

    return direct_embedding


def grouped_conv1d(
    shape: tuple[int, int, int],
    bits: int,
    codebooks: int,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
) -> tirx.PrimFunc:
    """The kernel of a Conv1d in groups, weight [N, C / groups, taps].

    Its arguments: x f32 [B, C, T], the operands, bias f32 [N], y f32 [B, N, T'] (output).
    """
    n, group_channels, taps = shape
    channels, group_rows = group_channels * groups, n // groups
    batch, frames, frames_out = (tirx.Var(v, "int64") for v in ("batch", "frames", "frames_out"))
    row = group_channels * taps
    size, entries = n * row_bytes(row, bits) + 1, 2**bits

    @T.prim_func(s_tir=True)
    def direct_conv1d(
        x: T.Buffer((batch, channels, frames), "float32"),
        weights: T.Buffer((size,), "uint8"),
        table: T.Buffer((codebooks, entries), "float32"),
        bias: T.Buffer((n,), "float32"),
        y: T.Buffer((batch, n, frames_out), "float32"),
    ):
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        kernel = T.sblock_alloc_buffer((row,), "float32")
        total = T.sblock_alloc_buffer((1,), "float32")
        for b in range(batch):
            for j in range(n):
                for p in range(row):
                    kernel[p] = table[
                        _codebook_row(j, codebooks), index_at(weights, j, p, row, bits)
                    ]
                for t in range(frames_out):
                    total[0] = bias[j]
                    for c in range(group_channels):
                        for tap in range(taps):
                            if (
                                t * stride + tap * dilation >= padding
                                and t * stride + tap * dilation < frames + padding
                            ):
                                total[0] = (
                                    total[0]
                                    + kernel[c * taps + tap]
                                    * x[
                                        b,
                                        j // group_rows * group_channels + c,
                                        t * stride + tap * dilation - padding,
                                    ]
                                )
                    y[b, j, t] = SCALAR_MATH.function(activation)(total[0])

    return direct_conv1d


def _codebook_row(row: tirx.PrimExpr, codebooks: int) -> tirx.PrimExpr | int:
    """Which codebook a weight's row uses."""
    return row if codebooks > 1 else 0
