from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import assert_same, calls, module, var, weight
from tvm import relax

from gq_tvm.passes import operators
from gq_tvm.passes.fold_batch_norm import FoldBatchNorm

EPSILON = 1e-5


def statistics(channels, seed=0, sign=1):
    rng = np.random.default_rng(seed)
    gamma, variance = rng.uniform(0.5, 2, (2, channels))
    beta, mean = rng.standard_normal((2, channels))
    gamma[0] *= sign
    return [one.astype(np.float32) for one in (gamma, beta, mean, variance)]


def factor_and_shift(gamma, beta, mean, variance):
    factor = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + EPSILON)
    return factor, beta - mean * factor


def normed(emit, x, constants, axis=1):
    norm = relax.op.nn.batch_norm(
        x, *map(relax.const, constants), axis=axis, epsilon=EPSILON, training=False
    )
    return relax.TupleGetItem(emit(norm), 0)


def convolution(x, groups, activation, constants=None):
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": groups}
    *held, bias = constants or weight(6, 6 // groups, 4, taps=3)
    return operators.codebook_conv1d(x, held, bias, **options, activation=activation, layer="conv")


@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize(("groups", "activation"), [(6, "fp32"), (1, "fp32"), (1, "int8")])
def test_scales_and_bias_are_multiplied(groups, activation, sign):
    x, constants = var("x", 2, 6, 9), statistics(6, sign=sign)
    got = FoldBatchNorm()(
        module([x], lambda emit: normed(emit, emit(convolution(x, groups, activation)), constants))
    )
    factor, shift = factor_and_shift(*constants)
    indices, codebook, _, *rest, bias = weight(6, 6 // groups, 4, taps=3)
    shifted = (bias.value.numpy() * factor + shift).astype(np.float32)
    scale = relax.const(factor.astype(np.float32))
    folded = [indices, codebook, scale, *rest, relax.const(shifted)]
    assert_same(got, module([x], lambda emit: convolution(x, groups, activation, folded)))


def apart(x, constants):
    factor, shift = (one.astype(np.float32)[:, None] for one in factor_and_shift(*constants))

    def after(emit, y):
        return relax.op.add(emit(relax.op.multiply(y, relax.const(factor))), relax.const(shift))

    return after


def test_behind_something_else():
    x, constants = var("x", 2, 6, 9), statistics(6)
    got = FoldBatchNorm()(module([x], lambda emit: normed(emit, x, constants)))
    assert_same(got, module([x], lambda emit: apart(x, constants)(emit, x)))


def test_a_convolution_read_twice_keeps_its_scale():
    x, constants = var("x", 2, 6, 9), statistics(6)

    def body(emit):
        y = emit(convolution(x, 6, "fp32"))
        return relax.Tuple([emit(normed(emit, y, constants)), y])

    got = FoldBatchNorm()(module([x], body))
    (call,) = calls(got, operators.CONV1D)
    assert operators.shape_of(call.args[3]) == [1]
