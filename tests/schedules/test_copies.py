"""Kernels that compute nothing: matrices turned round, and what convolutions read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.kernel_harness import TARGETS, Kernels, device_for, target

from gq_tvm.schedules.cpu.float_ops import lanes_of
from gq_tvm.schedules.cpu.float_ops.transposition import transpose
from gq_tvm.schedules.cpu.float_ops.unfold import unfold
from gq_tvm.schedules.windows import Axis, Windows

# Batch, rows, columns; whether they are known only at run time.
MATRICES = [
    (1, 16, 32, False),
    (2, 5, 37, False),
    (3, 33, 17, True),
    (1, 7, 40, True),
    (1, 1, 3, True),
    (2, 1, 20, False),
]

# Batch, channels of x, first and count of those read; of each axis size, taps, stride, dilation,
# and zeros at either end; whether sizes are known only at run time.
WINDOWS = [
    (2, 5, 0, 5, (1, 1, 1, 1, 0, 0), (40, 3, 1, 1, 1, 1), False),
    (1, 6, 2, 3, (1, 1, 1, 1, 0, 0), (67, 7, 2, 3, 9, 4), True),
    (1, 40, 0, 40, (1, 1, 1, 1, 0, 0), (5, 2, 1, 1, 0, 0), True),
    (2, 3, 0, 3, (1, 1, 1, 1, 0, 0), (9, 2, 4, 1, 0, 1), False),
    (1, 3, 0, 3, (9, 3, 2, 1, 1, 0), (33, 3, 2, 1, 1, 1), False),
    (2, 4, 1, 2, (7, 2, 1, 3, 0, 2), (21, 5, 1, 2, 3, 0), True),
    (1, 2, 0, 2, (1, 1, 1, 1, 1, 1), (18, 1, 1, 1, 0, 0), False),
    (1, 3, 0, 3, (32, 16, 16, 1, 0, 0), (32, 16, 16, 1, 0, 0), False),
]


# The two of ARM differ in dot products of bytes alone.
@pytest.fixture(
    params=[pytest.param(one, marks=pytest.mark.slow if one == "arm" else ()) for one in TARGETS]
)
def machine(request, emulated):
    where = target(request.param)
    device = device_for(where, emulated)
    return lanes_of(where), lambda functions: Kernels(where, device, functions)


def test_transpositions(machine):
    lanes, compiled = machine
    functions = {
        f"f{i}": transpose(lanes, *[None] * 3 if symbolic else sizes)
        for i, (*sizes, symbolic) in enumerate(MATRICES)
    }
    run = compiled(functions)
    for i, (*sizes, _) in enumerate(MATRICES):
        x = np.arange(np.prod(sizes), dtype=np.float32).reshape(sizes)
        x[0, 0, 0] = np.nan
        want = x.transpose(0, 2, 1)
        np.testing.assert_array_equal(run(f"f{i}", [x], [want.shape])[0], want)


def windows(case: Any) -> tuple[Windows, np.ndarray, np.ndarray]:
    """The kernel's shape, an input, and what PyTorch makes of it."""
    batch, whole, first, channels, rows, columns, symbolic = case
    x = torch.randn(batch, whole, rows[0], columns[0], generator=torch.Generator().manual_seed(0))
    read = F.pad(x[:, first : first + channels], [*columns[4:], *rows[4:]])
    axes, out = [], []
    for padded, (size, taps, stride, dilation, left, _) in zip(
        read.shape[2:], (rows, columns), strict=True
    ):
        out.append((padded - dilation * (taps - 1) - 1) // stride + 1)
        axes.append(Axis(size, out[-1], taps, stride, dilation, left))
    taps, stride, dilation = ((rows[i], columns[i]) for i in (1, 2, 3))
    want = F.unfold(read, taps, dilation, 0, stride).transpose(1, 2).reshape(batch, *out, -1)
    if symbolic:
        axes = [one if one == Axis(1, 1) else replace(one, size=None, out=None) for one in axes]
    known = None if symbolic else batch
    of = Windows(known, whole, first, channels, axes[0], axes[1], rows[5], columns[5])
    return of, x.numpy(), want.numpy()


def test_windows(machine):
    lanes, compiled = machine
    cases = [windows(one) for one in WINDOWS]
    run = compiled({f"f{i}": unfold(lanes, of) for i, (of, _, _) in enumerate(cases)})
    for i, (_, x, want) in enumerate(cases):
        np.testing.assert_array_equal(run(f"f{i}", [x], [want.shape])[0], want)
