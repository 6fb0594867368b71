from __future__ import annotations

from helpers.relax_modules import calls, module, var
from tvm import relax, tirx

from gq_tvm.passes.rewrite_views import LEGAL_RESHAPES, RewriteViews


def rewritten(params, body):
    legal = relax.transform.LegalizeOps(LEGAL_RESHAPES)(module(params, body))
    return RewriteViews()(legal)


def kernels(mod):
    return [call.args[0].name_hint for call in calls(mod, "relax.call_tir")]


def test_copies_in_order_are_reshapes():
    x = var("x", 2, 1, 6)

    def body(emit):
        y = emit(relax.op.reshape(emit(relax.op.abs(x)), [4, 3]))
        y = emit(relax.op.expand_dims(y, [0]))
        y = emit(relax.op.permute_dims(y, [1, 0, 2]))
        return relax.op.exp(y)

    found = rewritten([x], body)
    assert kernels(found) == ["tir_abs", "tir_exp"]
    assert len(calls(found, "relax.reshape")) == 3


def test_other_orders_stay_kernels_where_sizes_are_dynamic_too():
    frames = tirx.Var("T", "int64")
    x = var("x", 2, frames + 2, 5)

    def body(emit):
        y = emit(relax.op.permute_dims(x, [0, 2, 1]))
        y = emit(relax.op.reshape(y, [2, 1, 5, frames + 2]))
        return relax.op.abs(emit(relax.op.permute_dims(y, [0, 2, 3, 1])))

    found = rewritten([x], body)
    assert "transpose" in kernels(found)
    assert "reshape" not in kernels(found)


def test_results_of_the_function_are_their_own():
    x = var("x", 2, 6)
    assert kernels(rewritten([x], lambda emit: relax.op.reshape(x, [3, 4]))) == ["reshape"]
