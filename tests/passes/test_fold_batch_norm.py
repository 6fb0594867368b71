from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import assert_same, calls, module, var, weight
from tvm import relax

from gq_tvm.ops.rounding import quantize_codebook
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
    return operators.codebook_conv1d(
        x,
        *(constants or weight(6, 6 // groups, 4, taps=3)),
        **options,
        bits=4,
        activation=activation,
        layer="conv",
    )


@pytest.mark.parametrize(("groups", "activation"), [(6, "fp32"), (1, "fp32"), (1, "int8")])
def test_rows_and_bias_are_scaled(groups, activation):
    x, constants = var("x", 2, 6, 9), statistics(6)
    got = FoldBatchNorm()(
        module([x], lambda emit: normed(emit, emit(convolution(x, groups, activation)), constants))
    )
    factor, shift = factor_and_shift(*constants)
    indices, codebook, bias = weight(6, 6 // groups, 4, taps=3)
    scaled = (codebook.value.numpy() * factor[:, None]).astype(np.float32)
    shifted = (bias.value.numpy() * factor + shift).astype(np.float32)
    folded = [indices, relax.const(scaled), relax.const(shifted)]
    assert_same(got, module([x], lambda emit: convolution(x, groups, activation, folded)))
    if activation == "int8":  # the very same integers
        grid, _ = quantize_codebook(codebook.value.numpy())
        np.testing.assert_array_equal(quantize_codebook(scaled)[0], np.tile(grid, (6, 1)))


def apart(x, constants):
    factor, shift = (one.astype(np.float32)[:, None] for one in factor_and_shift(*constants))

    def after(emit, y):
        return relax.op.add(emit(relax.op.multiply(y, relax.const(factor))), relax.const(shift))

    return after


def test_a_negative_factor_stays_apart_where_rows_share_a_table():
    x, constants = var("x", 2, 6, 9), statistics(6, sign=-1)
    got = FoldBatchNorm()(
        module([x], lambda emit: normed(emit, emit(convolution(x, 1, "int8")), constants))
    )
    after = apart(x, constants)
    assert_same(got, module([x], lambda emit: after(emit, emit(convolution(x, 1, "int8")))))


def test_behind_something_else():
    x, constants = var("x", 2, 6, 9), statistics(6)
    got = FoldBatchNorm()(module([x], lambda emit: normed(emit, x, constants)))
    assert_same(got, module([x], lambda emit: apart(x, constants)(emit, x)))


def test_a_convolution_read_twice_keeps_its_codebook():
    x, constants = var("x", 2, 6, 9), statistics(6)

    def body(emit):
        y = emit(convolution(x, 6, "fp32"))
        return relax.Tuple([emit(normed(emit, y, constants)), y])

    got = FoldBatchNorm()(module([x], body))
    (call,) = calls(got, operators.CONV1D)
    assert operators.shape_of(call.args[2]) == [1, 16]
