"""A reshape of a reshape is one reshape, and none where the shape is the one it had before.

Kernels work on matrices and the model on batches of them: between two kernels stand the reshape of
the one and that of the other.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from gq_tvm.passes.operators import RESHAPES, is_operator, same_shape, shape_of
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass, tidied


@tvm.transform.module_pass(opt_level=0)
class CancelReshapes(ModulePass):
    """Make chains of reshapes one, or nothing."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return tidied(CallRewriter(module, _shortest).run())


def _shortest(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
    if not is_operator(call, *RESHAPES):
        return None
    source = call.args[0]
    while isinstance(source, relax.Var):
        value = rewriter.builder_.lookup_binding(source)
        if isinstance(value, relax.Var):
            source = value
        elif is_operator(value, *RESHAPES):
            source = value.args[0]
        else:
            break
    call = rewriter.builder_.normalize(call)
    if source.same_as(call.args[0]) and is_operator(call, "relax.reshape"):
        return source if same_shape(source, call) else None
    return source if same_shape(source, call) else relax.op.reshape(source, shape_of(call))
