from __future__ import annotations

import pytest
from relax_modules import assert_same, linear, module, var, weight
from tvm import relax

from gq_tvm.passes import operators
from gq_tvm.passes.fuse_epilogue import FuseEpilogue

FUNCTIONS = {
    "relu": relax.op.nn.relu,
    "sigmoid": relax.op.sigmoid,
    "tanh": relax.op.tanh,
    "silu": relax.op.nn.silu,
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


def test_through_a_reshape():
    x = var("x", 6, 10)

    def before(emit):
        return relax.op.nn.relu(emit(relax.op.reshape(emit(linear(x, 6, 10)), [2, 3, 6])))

    def after(emit):
        return relax.op.reshape(emit(linear(x, 6, 10, epilogue="relu")), [2, 3, 6])

    assert_same(FuseEpilogue()(module([x], before)), module([x], after))


def test_behind_a_convolution():
    x = var("x", 1, 4, 9)
    options = {"bits": 4, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}

    def convolution(epilogue):
        return operators.codebook_conv1d(
            x, *weight(6, 4, 4, taps=3), **options, activation="fp32", layer="c", epilogue=epilogue
        )

    before = module([x], lambda emit: relax.op.tanh(emit(convolution(""))))
    assert_same(FuseEpilogue()(before), module([x], lambda emit: convolution("tanh")))


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


@pytest.mark.parametrize(
    "body",
    [
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
