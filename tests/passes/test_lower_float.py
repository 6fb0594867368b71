from __future__ import annotations

import pytest
from helpers.relax_modules import assert_same, calls, module, var
from tvm import relax, tirx

from gq_tvm import targets
from gq_tvm.passes.lower_float import LowerFloat


def lowered(params, body):
    return LowerFloat(targets.get("x86-64-v4"))(module(params, body))


def kernels(mod):
    return [call.args[0].name_hint for call in calls(mod, "relax.call_tir")]


def test_layer_norms_share_a_kernel():
    x, gamma, beta = var("x", 2, 3, 8), var("gamma", 8), var("beta", 8)

    def body(emit):
        y = emit(relax.op.nn.layer_norm(x, gamma, beta, axes=[-1]))
        return relax.op.nn.layer_norm(y, gamma, beta, axes=[2])

    assert kernels(lowered([x, gamma, beta], body)) == ["layer_norm", "layer_norm"]


def test_kernels_of_other_operators():
    frames = tirx.Var("T", "int64")
    x = var("x", 2, frames, 4, 8)

    def body(emit):
        y = emit(relax.op.nn.attention(x, x, x))
        y = emit(relax.op.nn.softmax(y, axis=-1))
        return relax.op.matmul(y, emit(relax.op.permute_dims(x, [0, 1, 3, 2])))

    assert kernels(lowered([x], body)) == ["attention", "softmax", "transpose", "matmul"]


@pytest.mark.parametrize(
    ("shape", "axes", "turned"),
    [
        ((2, 6, 5), (0, 2, 1), [2, 6, 5]),
        ((6, 5), None, [1, 6, 5]),
        ((2, 1, 6, 5), (0, 3, 1, 2), [2, 6, 5]),
        ((4, 5, 6), (2, 0, 1), [1, 20, 6]),
        ((1, 6, 5, 7), (2, 3, 0, 1), [1, 6, 35]),
        ((2, 3, 4, 5), (0, 2, 1, 3), None),  # rows stay whole: a copy of them
        ((4, 5, 6), (2, 1, 0), None),
        ((8, 3), (1, 0), None),  # too narrow
        ((1, 8, 1), (0, 2, 1), None),  # nothing moves
    ],
)
def test_transpositions_of_matrices(shape, axes, turned):
    x = var("x", *shape)
    before = module([x], lambda emit: relax.op.permute_dims(x, axes))
    got = LowerFloat(targets.get("x86-64-v4"))(before)
    if turned is None:
        assert_same(got, before)
        return
    assert kernels(got) == ["transpose"]
    (call,) = calls(got, "relax.call_tir")
    assert [int(size) for size in call.args[1][0].ty.shape] == turned


def test_tanh_gelu_and_silu_however_it_is_spelled():
    x = var("x", 2, 3, 8)

    def body(emit):
        y = emit(relax.op.nn.silu(emit(relax.op.nn.gelu(emit(relax.op.tanh(x))))))
        return relax.op.multiply(y, emit(relax.op.sigmoid(y)))

    assert kernels(lowered([x], body)) == ["tanh", "gelu", "silu", "silu"]


X, ROW, VECTOR = var("x", 4, 3, 5), var("row", 1, 5, 6), var("v", 5)
QUERY, KEY = var("q", 1, 6, 2, 8), var("k", 1, 7, 2, 8)


@pytest.mark.parametrize(
    ("params", "call"),
    [
        ([X], lambda: relax.op.nn.softmax(X, axis=1)),
        ([X], lambda: relax.op.multiply(X, X)),
        ([X, ROW], lambda: relax.op.matmul(X, ROW)),
        ([X, VECTOR], lambda: relax.op.matmul(X, VECTOR)),
        (
            [X, VECTOR],
            lambda: relax.op.nn.layer_norm(X, VECTOR, VECTOR, axes=[-1], center=False),
        ),
        (
            [QUERY, KEY],
            lambda: relax.op.nn.attention(QUERY, KEY, KEY, causal_mask="BottomRight"),
        ),
    ],
)
def test_what_is_left_to_tvm(params, call):
    before = module(params, lambda emit: call())
    assert_same(LowerFloat(targets.get("x86-64-v4"))(before), before)
