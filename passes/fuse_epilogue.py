"""Let a codebook kernel apply the activation function behind it.

``relu(codebook_linear(x))`` becomes ``codebook_linear(x, epilogue="relu")`` when nothing else uses
the sum; likewise sigmoid, tanh and silu (also spelled ``y * sigmoid(y)``), behind
``codebook_conv1d`` too, and through reshapes, which do not touch values.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm.passes.operators import CONV1D, LINEAR, attributes, is_operator, with_attrs
from gq_tvm.passes.rewriter import BindingRewriter, ModulePass

_FUNCTIONS = {
    "relax.nn.relu": "relu",
    "relax.sigmoid": "sigmoid",
    "relax.tanh": "tanh",
    "relax.nn.silu": "silu",
}


@tvm.transform.module_pass(opt_level=0)
class FuseEpilogue(ModulePass):
    """Move activation functions into the attribute ``epilogue``."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        values: dict[relax.Var, relax.Expr] = {}
        for _gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                values |= _fusions(function)
        if not values:
            return module
        rewriter = BindingRewriter(module, values)
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(function))
        cleanup = (relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination())
        return tvm.transform.Sequential(cleanup)(rewriter.builder_.get())


def _fusions(function: relax.Function) -> dict[relax.Var, relax.Expr]:
    """The new values of the variables that change: kernels, and functions now done by them."""
    value_of = dict(relax.analysis.get_var2val(function).items())
    users = _users(function)
    values: dict[relax.Var, relax.Expr] = {}
    for var, value in value_of.items():
        epilogue, summed, readers = _activation(value, value_of)
        if summed is None or users.get(summed) != {*readers, var}:
            continue
        if any(users.get(reader) != {var} for reader in readers):
            continue
        kernel = _through_reshapes(summed, value_of, users)
        call = value_of.get(kernel)
        if kernel in values or not is_operator(call, LINEAR, CONV1D):
            continue
        if not attributes(call)["epilogue"]:
            values[kernel] = with_attrs(call, epilogue=epilogue)
            values[var] = summed
    return values


def _activation(
    value: relax.Expr, value_of: dict[relax.Var, relax.Expr]
) -> tuple[str, relax.Var | None, list[relax.Var]]:
    """The function `value` is, of which variable, and other variables that read it for that."""
    if is_operator(value, *_FUNCTIONS) and isinstance(value.args[0], relax.Var):
        return _FUNCTIONS[value.op.name], value.args[0], []
    if is_operator(value, "relax.multiply"):
        for y, gate in (value.args, reversed(value.args)):
            if is_operator(value_of.get(gate), "relax.sigmoid"):
                of = value_of[gate].args[0]
                if isinstance(y, relax.Var) and y.same_as(of):
                    return "silu", y, [gate]
    return "", None, []


def _through_reshapes(
    var: relax.Var, value_of: dict[relax.Var, relax.Expr], users: dict[relax.Var, set[relax.Var]]
) -> relax.Var:
    """The variable `var` is a reshape of, if nothing else uses it."""
    while is_operator(value_of.get(var), "relax.reshape"):
        source = value_of[var].args[0]
        if users.get(source) != {var}:
            break
        var = source
    return var


def _users(function: relax.Function) -> dict[relax.Var, set[relax.Var]]:
    """The variables whose values read each variable; what is returned is read by itself too."""
    users: dict[relax.Var, set[relax.Var]] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            for read in relax.analysis.free_vars(binding.value):
                users.setdefault(read, set()).add(binding.var)
    for read in relax.analysis.free_vars(function.body.body):
        users.setdefault(read, set()).add(read)
    return users
