"""The weight matrix product behind a codebook operator's call."""

from __future__ import annotations

from math import prod

from tvm import relax

from gq_tvm.passes.operators import INPUTS, LINEAR, RECURRENCE, attributes, is_operator, shape_of
from gq_tvm.schedules import Product
from gq_tvm.schedules.epilogue import Epilogue

PRODUCTS = (LINEAR, RECURRENCE)  # the operators whose kernels come from a family


def product_of(call: relax.Call) -> Product | None:
    """The product a call computes, or None if its operator is not one for a kernel family."""
    if not is_operator(call, *PRODUCTS):
        return None
    at = attributes(call)
    n, k = shape_of(call.args[INPUTS[call.op.name]])
    leading = (
        shape_of(call.args[0])[:-1] if is_operator(call, LINEAR) else shape_of(call.args[1])[:1]
    )
    rows = prod(leading) if all(isinstance(size, int) for size in leading) else None
    recurrent = is_operator(call, RECURRENCE)
    glu = not recurrent and Epilogue.parse(at["epilogue"]).glu
    return Product(n, k, at["bits"], at["activation"], rows, recurrent, glu)
