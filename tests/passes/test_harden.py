from __future__ import annotations

import numpy as np
from relax_modules import assert_same, module, var
from tvm import relax

from gq_tvm.passes.harden import Harden


def test_take_wraps():
    x, ids = var("x", 5, 3), var("ids", 2, dtype="int64")
    before = module([x, ids], lambda emit: relax.op.take(x, ids, axis=0, mode="fast"))
    after = module([x, ids], lambda emit: relax.op.take(x, ids, axis=0, mode="wrap"))
    assert_same(Harden()(before), after)


def test_relu_and_clip_have_their_bounds_first():
    x = var("x", 5)

    def after(emit):
        y = emit(relax.op.maximum(relax.const(np.float32(0)), x))
        y = emit(relax.op.minimum(relax.const(np.float32(6)), y))
        return relax.op.maximum(relax.const(np.float32(-1)), y)

    before = module([x], lambda emit: relax.op.clip(emit(relax.op.nn.relu(x)), -1, 6))
    assert_same(Harden()(before), module([x], after))


def test_other_modes_of_take_are_left_alone():
    x, ids = var("x", 5, 3), var("ids", 2, dtype="int64")
    before = module([x, ids], lambda emit: relax.op.take(x, ids, axis=0, mode="clip"))
    assert_same(Harden()(before), before)
