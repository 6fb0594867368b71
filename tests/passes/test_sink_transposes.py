from __future__ import annotations

import numpy as np
from helpers.relax_modules import assert_same, module, var
from tvm import relax, tirx

from gq_tvm.passes.sink_transposes import SinkTransposes


def turned(x, axes=(0, 2, 1)):
    return relax.op.permute_dims(x, list(axes))


def assert_sinks(params, before, after):
    assert_same(SinkTransposes()(module(params, before)), module(params, after))


def test_transpositions_cancel():
    x = var("x", 2, 3, 4)
    assert_sinks(
        [x],
        lambda emit: relax.op.abs(emit(turned(emit(turned(x))))),
        lambda emit: relax.op.abs(x),
    )


def test_transpositions_are_joined():
    x = var("x", 2, 3, 4, 5)
    assert_sinks(
        [x],
        lambda emit: turned(emit(turned(x, (2, 0, 1, 3))), (0, 3, 1, 2)),
        lambda emit: turned(x, (2, 3, 0, 1)),
    )


def test_through_functions_slices_and_sums():
    x, frames = var("x", 2, tirx.Var("T", "int64"), 8), np.ones((8, 1), np.float32)

    def before(emit):
        y = emit(turned(x))
        y = emit(relax.op.add(emit(relax.op.multiply(y, relax.const(frames))), relax.const(2.0)))
        value = emit(relax.op.strided_slice(y, [1], [0], [4]))
        gate = emit(relax.op.sigmoid(emit(relax.op.strided_slice(y, [1], [4], [8]))))
        return turned(emit(relax.op.multiply(value, gate)))

    def after(emit):
        scaled = emit(relax.op.multiply(x, relax.const(frames.reshape(1, 1, 8))))
        y = emit(relax.op.add(scaled, relax.const(2.0)))
        value = emit(relax.op.strided_slice(y, [2], [0], [4]))
        gate = emit(relax.op.sigmoid(emit(relax.op.strided_slice(y, [2], [4], [8]))))
        return relax.op.multiply(value, gate)

    assert_sinks([x], before, after)


def test_through_a_split():
    x = var("x", 2, 3, 8)

    def before(emit):
        both = emit(relax.op.split(emit(turned(x)), 2, axis=1))
        value, gate = (emit(relax.TupleGetItem(both, i)) for i in range(2))
        return turned(emit(relax.op.add(value, gate)))

    def after(emit):
        both = emit(relax.op.split(x, 2, axis=2))
        value, gate = (emit(relax.TupleGetItem(both, i)) for i in range(2))
        return relax.op.add(value, gate)

    assert_sinks([x], before, after)


def test_what_minds_keeps_its_transposition():
    x, y = var("x", 2, 3, 4), var("y", 2, 4, 3)
    assert_sinks(
        [x, y],
        lambda emit: relax.op.add(emit(turned(x)), y),
        lambda emit: relax.op.add(emit(turned(x)), y),
    )
    assert_sinks(
        [x],
        lambda emit: relax.op.sum(emit(relax.op.exp(emit(turned(x)))), axis=[1]),
        lambda emit: relax.op.sum(emit(turned(emit(relax.op.exp(x)))), axis=[1]),
    )
