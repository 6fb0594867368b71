from __future__ import annotations

import numpy as np
import pytest
from helpers.relax_modules import assert_same, calls, module, var
from tvm import relax, tirx

from gq_tvm.errors import Error
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


def test_bounds_that_bound_nothing_are_left_out():
    """An integer has no infinity to be compared with."""
    x = var("x", 5, dtype="int64")
    before = module([x], lambda emit: relax.op.clip(x, 2, float("inf")))
    after = module([x], lambda emit: relax.op.maximum(relax.const(2, "int64"), x))
    assert_same(Harden()(before), after)


INDEXING = {
    "relax.gather_elements": lambda x, i: relax.op.gather_elements(x, i, axis=1),
    "relax.scatter_elements": lambda x, i: relax.op.scatter_elements(x, i, x, axis=1),
    "relax.index_tensor": lambda x, i: relax.op.index_tensor(x, [i, i]),
    "relax.index_put": lambda x, i: relax.op.index_put(x, relax.Tuple([i, i]), x),
}


@pytest.mark.parametrize("name", INDEXING)
@pytest.mark.parametrize("size", [3, "n"])
def test_indices_are_bounded(name, size):
    size = tirx.Var(size, "int64") if isinstance(size, str) else size
    x, ids = var("x", size, size), var("ids", size, size, dtype="int64")
    hardened = Harden()(module([x, ids], lambda emit: INDEXING[name](x, ids)))
    (call,) = calls(hardened, name)
    indices = call.args[1]
    used = list(indices.fields) if isinstance(indices, relax.Tuple) else [indices]
    assert all(one.name != "ids" for one in used)
    assert len(calls(hardened, "relax.call_tir")) == len(used)


def test_constant_indices_are_bounded_at_once():
    x = var("x", 5, 3)
    wild = relax.const(np.array([[-1, 0], [2, 7], [-9, 1]]), "int64")
    tame = relax.const(np.array([[2, 0], [2, 2], [0, 1]]), "int64")
    before = module([x], lambda emit: relax.op.gather_elements(x, wild, axis=1))
    after = module([x], lambda emit: relax.op.gather_elements(x, tame, axis=1))
    assert_same(Harden()(before), after)


def test_indices_that_cannot_be_bounded_are_refused():
    x, ids = var("x", 5, 3), var("ids", 4, 2, dtype="int64")
    with pytest.raises(Error, match=r"relax\.gather_nd is not safe"):
        Harden()(module([x, ids], lambda emit: relax.op.gather_nd(x, ids)))


def test_integers_have_no_nan_to_keep():
    x, y = var("x", 5, dtype="int64"), var("y", 5, dtype="int64")
    before = module([x, y], lambda emit: relax.op.maximum(x, y))
    assert_same(Harden()(before), before)
