from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import assert_same, calls, module, var, weight
from tvm import relax

from gq_tvm.passes import operators
from gq_tvm.passes.expand_conv import ExpandConv


def held(n, channels, taps):
    *arguments, bias = weight(n, channels, 4, taps=taps)
    return arguments, bias


def convolution(x, n, channels, taps, groups=1, **options):
    options = {"stride": 1, "padding": 0, "dilation": 1, **options}
    return operators.codebook_conv1d(
        x,
        *held(n, channels // groups, taps),
        groups=groups,
        activation="fp32",
        layer="conv",
        epilogue="relu",
        **options,
    )


def test_a_convolution_of_one_tap_is_a_product_of_its_channels():
    x = var("x", 2, 4, 9)
    got = ExpandConv()(module([x], lambda emit: convolution(x, 6, 4, 1)))
    (indices, *rest), bias = held(6, 4, 1)

    def after(emit):
        flat = relax.const(indices.value.numpy().reshape(6, 4))
        rows = emit(relax.op.permute_dims(x, [0, 2, 1]))
        y = operators.codebook_linear(
            rows, [flat, *rest], bias, activation="fp32", layer="conv", epilogue="relu"
        )
        return relax.op.permute_dims(emit(y), [0, 2, 1])

    assert_same(got, module([x], after))


@pytest.mark.parametrize(
    ("options", "frames"), [({"stride": 2, "padding": 1}, 5), ({"dilation": 3, "padding": 2}, 7)]
)
def test_a_convolution_is_a_product_of_unfolded_frames(options, frames):
    x = var("x", 2, 4, 9)
    got = ExpandConv()(module([x], lambda emit: convolution(x, 6, 4, 3, **options)))
    (call,) = calls(got, operators.LINEAR)
    assert operators.shape_of(call.args[0]) == [2, frames, 12]
    assert operators.shape_of(call.args[1]) == [6, 12]
    assert not calls(got, operators.CONV1D)


def test_a_convolution_in_groups_is_a_product_a_group():
    x = var("x", 2, 6, 9)
    got = ExpandConv()(module([x], lambda emit: convolution(x, 32, 6, 3, groups=2, padding=1)))
    found = calls(got, operators.LINEAR)
    assert [operators.attributes(one)["layer"] for one in found] == ["conv[0]", "conv[1]"]
    whole, bias = held(32, 3, 3)
    for number, call in enumerate(found):
        own = slice(16 * number, 16 * number + 16)
        assert operators.shape_of(call.args[0]) == [2, 9, 9]
        indices = whole[0].value.numpy()[own].reshape(16, 9)
        np.testing.assert_array_equal(call.args[1].value.numpy(), indices)
        np.testing.assert_array_equal(call.args[-1].value.numpy(), bias.value.numpy()[own])
    assert not calls(got, operators.CONV1D)


def test_a_convolution_in_groups_of_few_outputs_is_left_alone():
    x = var("x", 2, 4, 9)
    before = module([x], lambda emit: convolution(x, 8, 4, 3, groups=2))
    assert_same(ExpandConv()(before), before)


def test_a_convolution_of_single_channels_is_depthwise():
    x = var("x", 2, 8, 9)
    got = ExpandConv()(module([x], lambda emit: convolution(x, 8, 8, 3, groups=8, padding=1)))

    def after(emit):
        y = operators.codebook_depthwise(
            emit(relax.op.permute_dims(x, [0, 2, 1])),
            *held(8, 1, 3),
            stride=1,
            left=1,
            right=1,
            dilation=1,
            layer="conv",
            epilogue="relu",
        )
        return relax.op.permute_dims(emit(y), [0, 2, 1])

    assert_same(got, module([x], after))


@pytest.mark.parametrize("groups", [1, 4])
def test_padding_before_a_convolution_is_the_convolutions(groups):
    x = var("x", 2, 4, 9)

    def body(emit):
        padded = emit(relax.op.nn.pad(x, [0, 0, 0, 0, 4, 1]))
        return convolution(padded, 4, 4, 3, groups=groups, dilation=2)

    got = ExpandConv()(module([x], body))
    if groups == 4:
        (call,) = calls(got, operators.DEPTHWISE)
        at = operators.attributes(call)
        assert (at["left"], at["right"]) == (4, 1)
    else:
        (call,) = calls(got, operators.LINEAR)
        assert operators.shape_of(call.args[0]) == [2, 10, 12]


def test_other_padding_stays():
    x = var("x", 2, 4, 9)

    def body(emit):
        padded = emit(relax.op.nn.pad(x, [0, 0, 0, 0, 4, 1], pad_value=1.0))
        return convolution(padded, 4, 4, 3, groups=4)

    assert len(calls(ExpandConv()(module([x], body)), "relax.nn.pad")) == 1


@pytest.mark.parametrize(("taps", "unfolds"), [((1, 1), 0), ((3, 2), 1)])
def test_a_convolution_of_a_map_is_a_product_of_its_places(taps, unfolds):
    x = var("x", 2, 4, 9, 7)
    *arguments, bias = weight(6, 4, 4, taps=taps[0] * taps[1])
    indices = relax.const(arguments[0].value.numpy().reshape(6, 4, *taps))

    def body(emit):
        return operators.codebook_conv2d(
            x, [indices, *arguments[1:]], bias, stride=[1, 1], padding=[0, 0], dilation=[2, 1],
            activation="int8", layer="conv",
        )  # fmt: skip

    got = ExpandConv()(module([x], body))
    (call,) = calls(got, operators.LINEAR)
    rows, columns = (9, 7) if taps == (1, 1) else (5, 6)
    assert operators.shape_of(call.args[0]) == [2, rows, columns, 4 * taps[0] * taps[1]]
    assert len(calls(got, operators.UNFOLD)) == unfolds
