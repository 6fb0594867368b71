from __future__ import annotations

import numpy as np
import pytest
from helpers.kernel_harness import TARGETS, Kernels, device_for, target

from gq_tvm.ops import reference
from gq_tvm.ops.weight import Weight
from gq_tvm.runtime.devices import LocalDevice
from gq_tvm.schedules.cpu import depthwise
from gq_tvm.schedules.cpu.float_ops import lanes_of

CASES = [  # batch, frames, channels, taps, bits, codebook a channel, stride, padding, dilation
    (1, 64, 70, 31, 4, True, 1, 15, 1),
    (2, 9, 3, 5, 3, False, 2, 2, 1),
    (1, 20, 16, 3, 8, True, 1, 0, 4),
    (1, 8, 37, 9, 1, False, 3, 7, 2),
    (2, 1, 33, 1, 7, True, 1, 0, 1),
    (1, 13, 8, 9, 5, False, 1, 30, 1),
]


def shape_of(case, activation, symbolic):
    batch, frames, channels, taps, bits, per_channel, stride, padding, dilation = case
    frames_out = (frames + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    sizes = (None, None, None) if symbolic else (batch, frames, frames_out)
    codebooks = channels if per_channel else 1
    return frames_out, depthwise.Depthwise(
        channels, taps, bits, codebooks, stride, padding, dilation, activation, *sizes
    )


@pytest.mark.parametrize("where", TARGETS)
def test_depthwise(where, emulated):
    where = target(where)
    shapes = [shape_of(case, "relu" if i == 2 else "", i % 2 == 0) for i, case in enumerate(CASES)]
    functions = {
        f"f{i}": depthwise.depthwise(lanes_of(where), of) for i, (_, of) in enumerate(shapes)
    }
    run = Kernels(where, device_for(where, emulated), functions)
    for i, case in enumerate(CASES):
        batch, frames, channels, taps, bits, per_channel, stride, padding, dilation = case
        rng = np.random.default_rng(i)
        x = rng.standard_normal((batch, frames, channels)).astype(np.float32)
        indices = rng.integers(0, 2**bits, (channels, 1, taps)).astype(np.uint8)
        rows = channels if per_channel else 1
        codebook = rng.standard_normal((rows, 2**bits)).astype(np.float32)
        bias = rng.standard_normal(channels).astype(np.float32)
        operands = depthwise.pack(indices, codebook, bits)
        frames_out, of = shapes[i]
        (got,) = run(f"f{i}", [x, *operands.values(), bias], [(batch, frames_out, channels)])
        want = reference.codebook_conv1d(
            x.transpose(0, 2, 1),
            Weight(indices, codebook, np.ones(1, np.float32)),
            bias,
            stride,
            padding,
            dilation,
            channels,
            "fp32",
        ).transpose(0, 2, 1)
        want = np.maximum(want, 0) if of.activation else want
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("bits", range(1, 9))
def test_taps_are_packed_without_gaps(bits):
    indices = np.random.default_rng(bits).integers(0, 2**bits, (5, 1, 31)).astype(np.uint8)
    words = depthwise.pack(indices, np.zeros((1, 2**bits), np.float32), bits)["weights"]
    assert words.shape == (-(-31 * bits // 32), 5)
    streams = words.T.copy().view(np.uint8)
    codes = np.unpackbits(streams, axis=1, count=31 * bits, bitorder="little")
    back = np.packbits(codes.reshape(5, 31, bits), axis=2, bitorder="little")[..., 0]
    np.testing.assert_array_equal(back, indices[:, 0])


def test_what_is_not_finite_stays_where_the_taps_see_it():
    where = target("native")
    of = depthwise.Depthwise(16, 3, 2, 1, 1, 1, 1, "", 1, 12, 12)
    run = Kernels(where, LocalDevice(), {"f": depthwise.depthwise(lanes_of(where), of)})
    x = np.ones((1, 12, 16), np.float32)
    x[0, 0, 5], x[0, 11, 2] = np.nan, np.inf
    operands = depthwise.pack(np.ones((16, 1, 3), np.uint8), np.ones((1, 4), np.float32), 2)
    inputs = [x, *operands.values(), np.zeros(16, np.float32)]
    (got,) = run("f", inputs, [(1, 12, 16)])
    assert np.isnan(got).sum() == 2
    assert np.isnan(got[0, :2, 5]).all()
    assert np.isinf(got[0, 10:, 2]).all()
    assert np.isinf(got).sum() == 2
