from __future__ import annotations

import pytest
from relax_modules import assert_same, calls, module, var, weight
from tvm import relax, tirx

from gq_tvm import targets
from gq_tvm.passes import lower, operators
from gq_tvm.passes.expand_conv import ExpandConv
from gq_tvm.passes.expand_lstm import ExpandLSTM


def test_lstm_is_a_product_and_a_recurrence():
    steps = tirx.Var("T", "int64")
    x, h, c = var("x", 1, steps, 5), var("h", 1, 4), var("c", 1, 4)
    indices_ih, codebook_ih, bias = weight(16, 5, 3)
    indices_hh, codebook_hh, _ = weight(16, 4, 2)

    def before(emit):
        inputs = [x, h, c, indices_ih, codebook_ih, indices_hh, codebook_hh, bias]
        return operators.codebook_lstm(
            inputs, bits_ih=3, bits_hh=2, activation="int8", layer="lstm.0"
        )

    def after(emit):
        gates = operators.codebook_linear(
            x, indices_ih, codebook_ih, bias, bits=3, activation="int8", layer="lstm.0.ih"
        )
        return operators.codebook_recurrence(
            [emit(gates), h, c, indices_hh, codebook_hh],
            bits=2,
            activation="int8",
            layer="lstm.0.hh",
        )

    assert_same(ExpandLSTM()(module([x, h, c], before)), module([x, h, c], after))


def test_a_recurrence_is_one_call_a_layer():
    """However many steps: two layers over T steps, lowered whole, call two recurrences."""
    steps = tirx.Var("T", "int64")
    x, h, c = var("x", 1, steps, 4), var("h", 1, 4), var("c", 1, 4)

    def body(emit):
        y = x
        for layer in range(2):
            indices_ih, codebook_ih, bias = weight(16, 4, 3, seed=layer)
            indices_hh, codebook_hh, _ = weight(16, 4, 2, seed=layer + 2)
            inputs = [y, h, c, indices_ih, codebook_ih, indices_hh, codebook_hh, bias]
            call = operators.codebook_lstm(
                inputs, bits_ih=3, bits_hh=2, activation="int8", layer=f"lstm.{layer}"
            )
            y = emit(relax.TupleGetItem(emit(call), 0))
        return y

    lowered, parameters = lower(module([x, h, c], body), targets.get("native"), "scalar")
    kernels = {
        one.call["symbol"] for one in parameters.layers if one.kind == "recurrence" and one.call
    }
    used = [call.args[0].name_hint for call in calls(lowered, "relax.call_tir")]
    assert sum(symbol in kernels for symbol in used) == 2
    assert len(used) <= 8  # two products and a few reshapes besides: no step is spelled out


def convolution(x, n, channels, taps, groups=1, **options):
    options = {"stride": 1, "padding": 0, "dilation": 1, **options}
    return operators.codebook_conv1d(
        x,
        *weight(n, channels // groups, 4, taps=taps),
        bits=4,
        groups=groups,
        activation="fp32",
        layer="conv",
        epilogue="relu",
        **options,
    )


def test_a_convolution_of_one_tap_is_a_product_of_its_channels():
    x = var("x", 2, 4, 9)
    got = ExpandConv()(module([x], lambda emit: convolution(x, 6, 4, 1)))
    indices, codebook, bias = weight(6, 4, 4, taps=1)

    def after(emit):
        flat = relax.const(indices.value.numpy().reshape(6, 4))
        rows = emit(relax.op.permute_dims(x, [0, 2, 1]))
        y = operators.codebook_linear(
            rows, flat, codebook, bias, bits=4, activation="fp32", layer="conv", epilogue="relu"
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


def test_a_convolution_in_groups_is_left_alone():
    x = var("x", 2, 4, 9)
    before = module([x], lambda emit: convolution(x, 8, 4, 3, groups=2))
    assert_same(ExpandConv()(before), before)


def test_a_convolution_of_single_channels_is_depthwise():
    x = var("x", 2, 8, 9)
    got = ExpandConv()(module([x], lambda emit: convolution(x, 8, 8, 3, groups=8, padding=1)))
    indices, codebook, bias = weight(8, 1, 4, taps=3)

    def after(emit):
        y = operators.codebook_depthwise(
            emit(relax.op.permute_dims(x, [0, 2, 1])),
            *(indices, codebook, bias),
            bits=4,
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
