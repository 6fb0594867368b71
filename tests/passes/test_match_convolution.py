from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import calls, module, var
from tvm import relax

from gq_tvm import targets
from gq_tvm.passes import operators
from gq_tvm.passes.fuse_epilogue import FuseEpilogue
from gq_tvm.passes.lower_float import LowerFloat
from gq_tvm.passes.match_convolution import MatchConvolution

X = var("x", 1, 4, 9, 8)
WEIGHT = np.arange(6 * 2 * 3 * 3, dtype=np.float32).reshape(6, 2, 3, 3)
OPTIONS = {"strides": 2, "padding": [1, 0, 1, 0], "groups": 2}


def channels(first, rank=4):
    return relax.const(first + np.arange(6, dtype=np.float32).reshape(1, 6, *[1] * (rank - 2)))


def matched(body, *params):
    return MatchConvolution()(module([X, *params], body))


def test_padding_bias_and_the_factors_of_channels_go_into_a_convolution():
    def body(emit):
        x = emit(relax.op.nn.pad(X, [0, 0, 0, 0, 1, 2, 0, 3]))
        y = emit(relax.op.nn.conv2d(x, relax.const(WEIGHT), **OPTIONS))
        y = emit(relax.op.add(y, channels(1)))
        return relax.op.nn.relu(y)

    got = FuseEpilogue()(matched(body))
    (call,) = calls(got, operators.CONVOLUTION)
    assert operators.axes_of(call) == [
        {"stride": 2, "left": 2, "right": 3, "dilation": 1},
        {"stride": 2, "left": 0, "right": 3, "dilation": 1},
    ]
    assert operators.shape_of(call.args[0]) == [1, 4, 9, 8]
    assert np.array_equal(call.args[2].value.numpy(), 1 + np.arange(6))
    assert not calls(got, "relax.nn.pad")


def test_a_batch_norm_goes_into_the_weight():
    def body(emit):
        y = emit(relax.op.nn.conv2d(X, relax.const(WEIGHT), **OPTIONS))
        y = emit(relax.op.add(y, channels(1)))
        y = emit(relax.op.multiply(y, channels(2)))
        return relax.op.nn.relu(emit(relax.op.add(y, channels(3))))

    got = FuseEpilogue()(matched(body))
    (call,) = calls(got, operators.CONVOLUTION)
    _, weight, bias = call.args
    one = np.arange(6, dtype=np.float32)
    assert np.array_equal(bias.value.numpy(), (one + 1) * (one + 2) + one + 3)
    assert np.array_equal(weight.value.numpy(), WEIGHT * (one + 2).reshape(6, 1, 1, 1))
    assert operators.attributes(call)["epilogue"] == "relu"
    for gone in ("relax.add", "relax.multiply", "relax.nn.relu"):
        assert not calls(got, gone)


def test_factors_of_a_transposed_convolution_are_of_its_outputs():
    weight = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    x = var("x", 1, 4, 9)

    def body(emit):
        options = {"strides": 2, "groups": 2, "output_padding": 1}
        y = emit(relax.op.nn.conv1d_transpose(x, relax.const(weight), **options))
        return relax.op.multiply(y, channels(1, 3))

    (call,) = calls(MatchConvolution()(module([x], body)), operators.CONVOLUTION)
    factors = np.repeat(1 + np.arange(6).reshape(2, 3), 2, axis=0)
    assert np.array_equal(call.args[1].value.numpy(), weight * factors[:, :, None])
    assert operators.axes_of(call) == [{"stride": 2, "left": 0, "right": -1, "dilation": 1}]
    assert operators.shape_of(call) == [1, 6, 19]


def test_what_else_reads_a_convolution_keeps_its_bias_outside():
    def body(emit):
        y = emit(relax.op.nn.conv2d(X, relax.const(WEIGHT), **OPTIONS))
        return relax.op.multiply(y, emit(relax.op.add(y, channels(1))))

    got = matched(body)
    (call,) = calls(got, operators.CONVOLUTION)
    assert not call.args[2].value.numpy().any()
    assert len(calls(got, "relax.add")) == 1


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_convolutions_of_one_shape_share_a_kernel(layout):
    weight = np.zeros((4, 4, 3, 3), np.float32)
    x = var("x", 1, 4, 4, 4)

    def body(emit):
        options = {"padding": 1, "data_layout": layout}
        y = emit(relax.op.nn.conv2d(x, relax.const(weight), **options))
        return relax.op.nn.conv2d(y, relax.const(weight + 1), **options)

    got = LowerFloat(targets.get("x86-64-v4"))(MatchConvolution()(module([x], body)))
    names = [call.args[0].name_hint for call in calls(got, "relax.call_tir")]
    assert names == (["conv", "conv"] if layout == "NCHW" else [])
