from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import assert_same, linear, module, var, weight
from tvm import relax

from gq_tvm.passes import operators
from gq_tvm.passes.fuse_epilogue import FuseEpilogue

FUNCTIONS = {
    "relu": relax.op.nn.relu,
    "sigmoid": relax.op.sigmoid,
    "tanh": relax.op.tanh,
    "silu": relax.op.nn.silu,
    "gelu": relax.op.nn.gelu,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_behind_a_linear_is_fused(name):
    x = var("x", 2, 10)
    before = module([x], lambda emit: FUNCTIONS[name](emit(linear(x, 6, 10))))
    after = module([x], lambda emit: linear(x, 6, 10, epilogue=name))
    assert_same(FuseEpilogue()(before), after)


@pytest.mark.parametrize("gate_first", [True, False])
def test_silu_spelled_as_a_product(gate_first):
    x = var("x", 2, 10)

    def spelled(emit):
        y = emit(linear(x, 6, 10))
        gate = emit(relax.op.sigmoid(y))
        return relax.op.multiply(gate, y) if gate_first else relax.op.multiply(y, gate)

    after = module([x], lambda emit: linear(x, 6, 10, epilogue="silu"))
    assert_same(FuseEpilogue()(module([x], spelled)), after)


def limited(y, emit=None):
    """Within 0 and 6, in one step or, as torch.export has it, in two."""
    if emit is None:
        return relax.op.clip(y, 0, 6)
    return relax.op.clip(emit(relax.op.clip(y, 0, float("inf"))), -float("inf"), 6)


SIX, THREE = relax.const(6.0, "float32"), relax.const(3.0, "float32")


@pytest.mark.parametrize("in_two", [True, False])
@pytest.mark.parametrize("name", ["relu6", "hardsigmoid", "hardswish"])
def test_piecewise_linear_functions(name, in_two):
    x = var("x", 2, 10)

    def spelled(emit):
        y = emit(linear(x, 6, 10))
        moved = y if name == "relu6" else emit(relax.op.add(y, THREE))
        gate = limited(moved, emit if in_two else None)
        if name == "relu6":
            return gate
        gate = emit(gate)
        if name == "hardswish":
            gate = emit(relax.op.multiply(y, gate))
        return relax.op.divide(gate, SIX)

    after = module([x], lambda emit: linear(x, 6, 10, epilogue=name))
    assert_same(FuseEpilogue()(module([x], spelled)), after)


def test_what_is_none_of_them():
    x, other = var("x", 2, 10), var("y", 2, 6)

    def spelled(emit):
        y = emit(linear(x, 6, 10))
        gate = emit(limited(emit(relax.op.add(y, THREE))))
        return relax.op.divide(emit(relax.op.multiply(other, gate)), SIX)  # y does not come back

    before = module([x, other], spelled)
    assert_same(FuseEpilogue()(before), before)
    wide = module([x], lambda emit: relax.op.clip(emit(linear(x, 6, 10)), 0, 5))
    assert_same(FuseEpilogue()(wide), wide)


def test_through_a_reshape():
    x = var("x", 6, 10)

    def before(emit):
        return relax.op.nn.relu(emit(relax.op.reshape(emit(linear(x, 6, 10)), [2, 3, 6])))

    def after(emit):
        return relax.op.reshape(emit(linear(x, 6, 10, epilogue="relu")), [2, 3, 6])

    assert_same(FuseEpilogue()(module([x], before)), module([x], after))


def test_behind_a_convolution():
    x = var("x", 1, 4, 9)
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}

    *held, bias = weight(6, 4, 4, taps=3)

    def convolution(epilogue):
        return operators.codebook_conv1d(
            x, held, bias, **options, activation="fp32", layer="c", epilogue=epilogue
        )

    before = module([x], lambda emit: relax.op.tanh(emit(convolution(""))))
    assert_same(FuseEpilogue()(before), module([x], lambda emit: convolution("tanh")))


def halves_by_slices(emit, y, size):
    axes, last = [len(operators.shape_of(y)) - 1], operators.shape_of(y)[-1]
    first = emit(relax.op.strided_slice(y, axes, [0], [size]))
    return first, emit(relax.op.strided_slice(y, axes, [size], [last]))


def halves_by_split(emit, y, _):
    both = emit(relax.op.split(y, 2, axis=-1))
    return emit(relax.TupleGetItem(both, 0)), emit(relax.TupleGetItem(both, 1))


@pytest.mark.parametrize("halves", [halves_by_slices, halves_by_split])
def test_a_gated_linear_unit(halves):
    x = var("x", 2, 3, 10)

    def before(emit):
        value, gate = halves(emit, emit(linear(x, 6, 10)), 3)
        return relax.op.multiply(value, emit(relax.op.sigmoid(gate)))

    after = module([x], lambda emit: linear(x, 6, 10, epilogue="glu"))
    assert_same(FuseEpilogue()(module([x], before)), after)


@pytest.mark.parametrize("linear_first", [True, False])
def test_half_of_a_silu_and_a_residual(linear_first):
    x, r = var("x", 2, 10), var("r", 2, 6)

    def before(emit):
        y = emit(relax.op.nn.silu(emit(linear(x, 6, 10))))
        half = emit(relax.op.multiply(relax.const(0.5), y))
        return relax.op.add(half, r) if linear_first else relax.op.add(r, half)

    def after(emit):
        return linear(x, 6, 10, residual=r, epilogue="silu scale=0.5 residual")

    assert_same(FuseEpilogue()(module([x, r], before)), module([x, r], after))


def test_a_residual_of_another_rank():
    x, r = var("x", 6, 10), var("r", 2, 3, 6)

    def before(emit):
        return relax.op.add(emit(relax.op.reshape(emit(linear(x, 6, 10)), [2, 3, 6])), r)

    def after(emit):
        flat = emit(relax.op.reshape(r, [6, 6]))
        y = emit(linear(x, 6, 10, residual=flat, epilogue="residual"))
        return relax.op.reshape(y, [2, 3, 6])

    assert_same(FuseEpilogue()(module([x, r], before)), module([x, r], after))


def test_of_two_layers_in_a_sum_one_is_the_residual():
    x = var("x", 2, 10)

    def before(emit):
        return relax.op.add(emit(linear(x, 6, 10)), emit(linear(x, 6, 10, seed=1)))

    def after(emit):
        other = emit(linear(x, 6, 10, seed=1))
        return linear(x, 6, 10, residual=other, epilogue="residual")

    assert_same(FuseEpilogue()(module([x], before)), module([x], after))


def used_twice(x):
    def body(emit):
        y = emit(linear(x, 6, 10))
        return relax.Tuple([emit(relax.op.nn.relu(y)), y])

    return body


def behind_another_epilogue(x):
    return lambda emit: relax.op.nn.relu(emit(linear(x, 6, 10, epilogue="tanh")))


def a_product_that_is_no_silu(x):
    def body(emit):
        y = emit(linear(x, 6, 10))
        z = emit(linear(x, 6, 10, seed=1))
        return relax.op.multiply(z, emit(relax.op.sigmoid(emit(relax.op.negative(y)))))

    return body


def silu_whose_gate_is_used_again(x):
    def body(emit):
        y = emit(linear(x, 6, 10))
        gate = emit(relax.op.sigmoid(y))
        return relax.Tuple([emit(relax.op.multiply(y, gate)), gate])

    return body


def a_sum_that_is_broadcast(x):
    r = relax.const(np.ones((1, 2, 6), np.float32))
    return lambda emit: relax.op.add(emit(linear(x, 6, 10)), emit(relax.op.abs(r)))


def twice_itself(x):
    def body(emit):
        y = emit(linear(x, 6, 10))
        return relax.op.add(y, y)

    return body


def a_factor_behind_a_residual(x):
    def body(emit):
        y = emit(linear(x, 6, 10, residual=x6(emit, x), epilogue="residual"))
        return relax.op.multiply(y, relax.const(0.5))

    return body


def x6(emit, x):
    return emit(relax.op.strided_slice(x, [1], [0], [6]))


def the_wrong_half_is_opened(x):
    def body(emit):
        gate, value = halves_by_split(emit, emit(linear(x, 6, 10)), 3)
        return relax.op.multiply(value, emit(relax.op.sigmoid(gate)))

    return body


def halves_of_frames(x):
    def body(emit):
        both = emit(relax.op.split(emit(linear(x, 6, 10)), 2, axis=0))
        value, gate = (emit(relax.TupleGetItem(both, i)) for i in range(2))
        return relax.op.multiply(value, emit(relax.op.sigmoid(gate)))

    return body


@pytest.mark.parametrize(
    "body",
    [
        a_sum_that_is_broadcast,
        twice_itself,
        a_factor_behind_a_residual,
        the_wrong_half_is_opened,
        halves_of_frames,
        used_twice,
        behind_another_epilogue,
        a_product_that_is_no_silu,
        silu_whose_gate_is_used_again,
    ],
)
def test_what_is_left_alone(body):
    x = var("x", 2, 10)
    before = module([x], body(x))
    assert_same(FuseEpilogue()(before), before)
