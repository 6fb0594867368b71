from __future__ import annotations

import numpy as np
import pytest
from helpers.kernel_harness import TARGETS, Kernels, device_for, target

from gq_tvm.ops import reference
from gq_tvm.ops.weight import Outliers, Weight
from gq_tvm.runtime.devices.device import LocalDevice
from gq_tvm.schedules import Product
from gq_tvm.schedules.cpu import depthwise
from gq_tvm.schedules.cpu.float_ops import lanes_of

CASES = [  # batch, frames, channels, taps, bits, form of the weight, stride, padding, dilation
    (1, 64, 70, 31, 4, "row", 1, 15, 1),
    (2, 9, 3, 5, 3, "tensor", 2, 2, 1),
    (1, 20, 16, 3, 8, "tables", 1, 0, 4),
    (1, 8, 38, 9, 1, "halves", 3, 7, 2),
    (2, 1, 33, 1, 7, "row", 1, 0, 1),
    (1, 13, 8, 9, 5, "tensor", 1, 30, 1),
    (1, 12, 19, 31, 4, "groups", 1, 15, 1),
    (1, 12, 19, 31, 3, "group tables", 1, 15, 1),
    (1, 12, 19, 31, 2, "halves of groups", 1, 15, 1),
    (1, 12, 19, 31, 4, "outliers", 1, 15, 1),
]
ONE = np.ones(1, np.float32)


def weight_of(case):
    _, _, channels, taps, bits, form, *_ = case
    rng = np.random.default_rng([channels, taps, bits])
    rows = {"tables": (channels,), "halves": (2,), "group tables": (1, 2)}.get(form, (1,))
    scales = {"row": (channels,), "groups": (channels, 2), "halves of groups": (channels, 2)}
    shape, stored = scales.get(form, (1,)), "float16" if "halves of" in form else "float32"
    zero = rng.standard_normal(shape).astype(stored) if "groups" in form else None
    outliers = None
    if form == "outliers":
        at = np.sort(rng.choice(channels * taps, 40, replace=False))
        outliers = Outliers(at, rng.standard_normal(40).astype(np.float16))
    return Weight(
        rng.integers(0, 2**bits, (channels, 1, taps)).astype(np.uint8),
        rng.standard_normal((*rows, 2**bits)).astype(np.float32),
        rng.standard_normal(shape).astype(stored),
        zero,
        outliers,
    )


def product_of(weight):
    return Product(weight.rows, weight.width, weight.bits, "fp32").of(weight)


def shape_of(case, activation, symbolic):
    batch, frames, _, taps, _, _, stride, padding, dilation = case
    frames_out = (frames + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    sizes = (None, None, None) if symbolic else (batch, frames, frames_out)
    product = product_of(weight_of(case))
    options = stride, padding, dilation, activation
    return frames_out, depthwise.Depthwise(product, *options, *sizes)


@pytest.mark.parametrize("where", TARGETS)
def test_depthwise(where, emulated):
    where = target(where)
    shapes = [shape_of(case, "relu" if i == 2 else "", i % 2 == 0) for i, case in enumerate(CASES)]
    functions = {
        f"f{i}": depthwise.depthwise(lanes_of(where), of) for i, (_, of) in enumerate(shapes)
    }
    run = Kernels(where, device_for(where, emulated), functions)
    for i, case in enumerate(CASES):
        batch, frames, channels, _, _, _, stride, padding, dilation = case
        rng = np.random.default_rng(i)
        x = rng.standard_normal((batch, frames, channels)).astype(np.float32)
        bias = rng.standard_normal(channels).astype(np.float32)
        operands = depthwise.pack(weight_of(case))
        frames_out, of = shapes[i]
        (got,) = run(f"f{i}", [x, *operands.values(), bias], [(batch, frames_out, channels)])
        want = reference.codebook_conv1d(
            x.transpose(0, 2, 1), weight_of(case), bias, stride, padding, dilation, channels, "fp32"
        ).transpose(0, 2, 1)
        want = np.maximum(want, 0) if of.activation else want
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("bits", range(1, 9))
def test_taps_are_packed_without_gaps(bits):
    indices = np.random.default_rng(bits).integers(0, 2**bits, (5, 1, 31)).astype(np.uint8)
    words = depthwise.pack(Weight(indices, np.zeros((1, 2**bits), np.float32), ONE))["weights"]
    assert words.shape == (-(-31 * bits // 32), 5)
    streams = words.T.copy().view(np.uint8)
    codes = np.unpackbits(streams, axis=1, count=31 * bits, bitorder="little")
    back = np.packbits(codes.reshape(5, 31, bits), axis=2, bitorder="little")[..., 0]
    np.testing.assert_array_equal(back, indices[:, 0])


def test_what_is_not_finite_stays_where_the_taps_see_it():
    where = target("native")
    of = depthwise.Depthwise(Product(16, 3, 2, "fp32"), 1, 1, 1, "", 1, 12, 12)
    run = Kernels(where, LocalDevice(), {"f": depthwise.depthwise(lanes_of(where), of)})
    x = np.ones((1, 12, 16), np.float32)
    x[0, 0, 5], x[0, 11, 2] = np.nan, np.inf
    operands = depthwise.pack(
        Weight(np.ones((16, 1, 3), np.uint8), np.ones((1, 4), np.float32), ONE)
    )
    inputs = [x, *operands.values(), np.zeros(16, np.float32)]
    (got,) = run("f", inputs, [(1, 12, 16)])
    assert np.isnan(got).sum() == 2
    assert np.isnan(got[0, :2, 5]).all()
    assert np.isinf(got[0, 10:, 2]).all()
    assert np.isinf(got).sum() == 2
