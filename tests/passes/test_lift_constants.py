from __future__ import annotations

import numpy as np
from helpers.relax_modules import assert_same, module, var
from tvm import relax

from gq_tvm.passes.lift_constants import LiftConstants
from gq_tvm.passes.parameters import Parameters, digest

GAIN = np.arange(5, dtype=np.float32)


def test_constants_become_named_parameters():
    x = var("x", 2, 5)
    before = module([x], lambda emit: relax.op.multiply(x, relax.const(GAIN)))
    parameters = Parameters({digest(GAIN): "norm.weight"})
    gain = var("norm.weight", 5)
    after = module([x, gain], lambda emit: relax.op.multiply(x, gain), {"num_input": 1})
    assert_same(LiftConstants(parameters)(before), after)
    np.testing.assert_array_equal(parameters.arrays["norm.weight"], GAIN)


def test_equal_constants_are_one_parameter():
    x = var("x", 2, 5)

    def body(emit):
        y = emit(relax.op.multiply(x, relax.const(GAIN)))
        z = emit(relax.op.add(y, relax.const(GAIN + 1)))
        return relax.op.multiply(z, relax.const(GAIN))

    parameters = Parameters()
    lifted = LiftConstants(parameters)(module([x], body))
    assert [one.name for one in lifted["main"].params] == ["x", "constant", "constant.2"]
    assert parameters.arrays.keys() == {"constant", "constant.2"}


def test_scalars_stay():
    x = var("x", 2, 5)
    before = module(
        [x], lambda emit: relax.op.multiply(x, relax.const(np.float32(2))), {"num_input": 1}
    )
    assert_same(LiftConstants(Parameters())(before), before)
