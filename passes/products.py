"""The weight matrix products behind a codebook operator's call."""

from __future__ import annotations

from math import prod

from tvm import relax

from gq_tvm.passes.operators import (
    LINEAR,
    RECURRENT_LAYERS,
    WEIGHTS,
    attributes,
    form_of,
    is_operator,
    shape_of,
    weight_arguments,
)
from gq_tvm.schedules import Product
from gq_tvm.schedules.epilogue import Epilogue


def products_of(call: relax.Call) -> dict[str, Product]:
    """The products a call computes, by the endings of `WEIGHTS`.

    Empty if its operator's kernel does not come from a kernel family.
    """
    if not is_operator(call, LINEAR, *RECURRENT_LAYERS):
        return {}
    at, recurrent = attributes(call), RECURRENT_LAYERS.get(call.op.name)
    sizes = shape_of(call.args[0])[:-1]
    frames = prod(sizes) if all(isinstance(size, int) for size in sizes) else None
    glu = recurrent is None and Epilogue.parse(at["epilogue"]).glu
    products = {}
    for part in WEIGHTS[call.op.name]:
        n, k = shape_of(weight_arguments(call, part)[0])
        # Of the state: step by step, one sequence after another.
        rows = 1 if part in ("_hh", "_hr") else frames
        gates = 0 if recurrent is None or part == "_hr" else recurrent.gates
        form = form_of(call, part)
        products[part] = Product(
            n, k, activation=at["activation"], rows=rows, gates=gates, glu=glu, **form
        )
    return products
