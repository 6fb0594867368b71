"""The kernels that lowered functions call, as a manifest lists them for profiling."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import IRModule

from gq_tvm.passes.operators import is_operator
from gq_tvm.passes.relax_tools.rewriter import inputs_of
from gq_tvm.passes.relax_tools.sizes import spelled


def kernel_calls(module: IRModule) -> dict[str, list[dict[str, Any]]]:
    """The kernels each function calls, equal calls once, in the order of the first of each.

    Returns:
        By function: the ``symbol`` in the library, its ``arguments``, ``outputs`` and ``sizes``,
        and how many ``times`` it is called. An argument is a parameter's name, ``[dtype, size,
        ...]`` of a tensor, or ``["size", size]``; sizes known only at run time are strings.
    """
    module = relax.transform.RewriteDataflowReshape()(module)  # views call no kernel
    return {
        name.name_hint: _calls(function)
        for name, function in module.functions.items()
        if isinstance(function, relax.Function)
    }


def _calls(function: relax.Function) -> list[dict[str, Any]]:
    parameters = set(list(function.params)[len(inputs_of(function)) :])
    found: dict[str, dict[str, Any]] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not isinstance(call, relax.Call) or not is_operator(call, "relax.call_tir"):
                continue
            made = call.ty_args[0]
            outputs = list(made.fields) if isinstance(made, relax.TupleType) else [made]
            one = {
                "symbol": call.args[0].name_hint,
                "arguments": [_argument(x, parameters) for x in call.args[1]],
                "outputs": [_tensor(ty) for ty in outputs],
                "sizes": [spelled(one) for one in (call.args[2].values if call.args[2:] else ())],
            }
            found.setdefault(repr(one), {**one, "times": 0})["times"] += 1
    return list(found.values())


def _argument(expr: relax.Expr, parameters: set[relax.Var]) -> str | list[Any]:
    if isinstance(expr, relax.Var) and expr in parameters:
        return expr.name
    return _tensor(expr.ty) if isinstance(expr.ty, relax.TensorType) else ["size", spelled(expr)]


def _tensor(ty: relax.TensorType) -> list[Any]:
    return [str(ty.dtype), *map(spelled, ty.shape)]
