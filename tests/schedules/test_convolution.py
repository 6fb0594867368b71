from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.kernel_harness import TARGETS, Kernels, device_for, target

from gq_tvm.schedules.cpu.float_ops import lanes_of, registers_of
from gq_tvm.schedules.cpu.float_ops.convolution import Convolution, convolution
from gq_tvm.schedules.windows import Axis

# Batch, channels, outputs, groups; of each axis size, taps, stride, dilation and padding, of a
# transposed convolution also the outputs added; whether sizes are known only at run time.
PLAIN = [
    (2, 3, 5, 1, (7, 3, 2, 1, 1), (9, 2, 3, 2, 0), False),
    (1, 6, 4, 2, (9, 3, 1, 2, 3), (11, 3, 1, 2, 1), True),
    (1, 5, 5, 5, (1, 1, 1, 1, 0), (33, 7, 2, 4, 9), False),
    (1, 2, 35, 1, (1, 1, 1, 1, 0), (700, 5, 3, 1, 2), True),
    (1, 3, 7, 1, (16, 8, 8, 1, 0), (16, 8, 8, 1, 0), False),
]
TRANSPOSED = [
    (1, 4, 6, 2, (5, 3, 2, 1, 1, 1), (7, 4, 3, 2, 2, 2), False),
    (2, 2, 2, 2, (6, 2, 3, 3, 1, 0), (5, 5, 2, 1, 3, 0), True),
    (1, 8, 7, 1, (1, 1, 1, 1, 0, 0), (70, 8, 4, 1, 2, 0), False),
]


def with_outputs(case, transposed):
    """The kernel's shape, inputs, and what PyTorch makes of these."""
    batch, channels, outputs, groups, rows, columns, symbolic = case
    pairs: list[Any] = list(zip(rows, columns, strict=True))
    sizes, taps, stride, dilation, padding = pairs[:5]
    rng = torch.Generator().manual_seed(channels)
    x = torch.randn(batch, channels, *sizes, generator=rng)
    shape = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    weight = torch.randn(*shape, *taps, generator=rng)
    bias = torch.randn(outputs, generator=rng)
    if transposed:
        y = F.conv_transpose2d(x, weight, bias, stride, padding, pairs[5], groups, dilation)
    else:
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    axes = [
        Axis(*one) for one in zip(sizes, y.shape[2:], taps, stride, dilation, padding, strict=True)
    ]
    of = Convolution(batch, channels, outputs, groups, axes[0], axes[1], transposed)
    if symbolic:
        unknown = [replace(axis, size=None, out=None) for axis in axes]
        of = replace(of, batch=None, rows=unknown[0], columns=unknown[1])
    return of, [one.numpy() for one in (x, weight, bias)], y.numpy()


# The two of ARM differ in dot products of bytes alone.
@pytest.mark.parametrize(
    "where",
    [pytest.param(one, marks=pytest.mark.slow if one == "arm" else ()) for one in TARGETS],
)
def test_convolutions(where, emulated):
    where = target(where)
    cases = [with_outputs(one, False) for one in PLAIN]
    cases += [with_outputs(one, True) for one in TRANSPOSED]
    of, inputs, want = cases[0]
    cases.append((replace(of, activation="relu"), inputs, np.maximum(want, 0)))
    lanes, registers = lanes_of(where), registers_of(where)
    kernels = {f"f{i}": convolution(lanes, registers, of) for i, (of, _, _) in enumerate(cases)}
    run = Kernels(where, device_for(where, emulated), kernels)
    for i, (of, inputs, want) in enumerate(cases):
        (got,) = run(f"f{i}", inputs, [want.shape])
        assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want), of
