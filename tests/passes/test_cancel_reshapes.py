from __future__ import annotations

from helpers.relax_modules import assert_same, module, var
from tvm import relax, tirx

from gq_tvm.passes.cancel_reshapes import CancelReshapes


def test_reshapes_of_reshapes():
    frames = tirx.Var("T", "int64")
    x = var("x", 1, frames, 6)

    def before(emit):
        rows = emit(relax.op.reshape(x, [frames, 6]))
        back = emit(relax.op.reshape(rows, [1, frames, 6]))
        heads = emit(relax.op.reshape(back, [1, frames, 2, 3]))
        return relax.Tuple([emit(relax.op.abs(back)), emit(relax.op.exp(heads))])

    def after(emit):
        heads = emit(relax.op.reshape(x, [1, frames, 2, 3]))
        return relax.Tuple([emit(relax.op.abs(x)), emit(relax.op.exp(heads))])

    assert_same(CancelReshapes()(module([x], before)), module([x], after))


def test_squeezed_and_expanded():
    x = var("x", 1, 5)

    def before(emit):
        return relax.op.abs(emit(relax.op.expand_dims(emit(relax.op.squeeze(x, [0])), [0])))

    assert_same(CancelReshapes()(module([x], before)), module([x], lambda emit: relax.op.abs(x)))
