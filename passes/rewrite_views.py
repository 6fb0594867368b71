"""A kernel that only copies its input in its order is a reshape of it: no kernel at all.

TVM's own ``RewriteDataflowReshape`` fails where it cannot divide a dynamic size [apache-tvm 0.27];
here such a kernel stays one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm
from tvm import relax, topi
from tvm.ir import IRModule
from tvm.relax.expr_functor import PyExprMutator, mutator

from gq_tvm.passes.operators import RESHAPES, is_operator, shape_of
from gq_tvm.passes.relax_tools.rewriter import ModulePass

_VIEW = "gq_tvm.view"  # of a kernel that is a reshape; one that it is fused into has it not


def _legal_reshape(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return builder.call_te(
        topi.reshape,
        call.args[0],
        shape_of(call),
        primfunc_name_hint="reshape",
        primfunc_attrs={_VIEW: True},
    )


#: For ``LegalizeOps``: reshapes become kernels that are known as such again, whatever their sizes.
LEGAL_RESHAPES: dict[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]] = dict.fromkeys(
    RESHAPES, _legal_reshape
)


@tvm.transform.module_pass(opt_level=0)
class RewriteViews(ModulePass):
    """Make reshapes of such calls, where nothing outside the dataflow block reads the result."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        rewriter = _Rewriter(module)
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(function))
        return rewriter.builder_.get()


@mutator
class _Rewriter(PyExprMutator):
    def __init__(self, module: IRModule) -> None:
        super().__init__(module)
        self.module = module
        self.views: dict[tvm.ir.GlobalVar, bool] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Rewrite a binding."""
        if isinstance(binding.var, relax.DataflowVar) and self._is_view(binding.value):
            (source,) = map(self.visit_expr, _tensors(binding.value))
            view = relax.op.reshape(source, binding.value.ty_args[0].shape)
            binding = relax.VarBinding(binding.var, view)
        super().visit_var_binding_(binding)

    def _is_view(self, call: relax.Expr) -> bool:
        if not is_operator(call, "relax.call_tir"):
            return False
        kernel, inputs = call.args[0], _tensors(call)
        result, function = call.ty_args[0], self.module[kernel]
        if len(inputs) != 1 or not isinstance(result, relax.TensorType):
            return False
        given = inputs[0].ty
        if given.dtype != result.dtype or given.shape is None or result.shape is None:
            return False
        elements = [math.prod(one.shape) for one in (given, result)]
        if not tvm.sym.Analyzer().can_prove_equal(*elements):
            return False
        if _VIEW in (function.attrs or {}):
            return True
        if kernel not in self.views:
            try:
                self.views[kernel] = relax.analysis.has_reshape_pattern(function)
            except tvm.error.InternalError:
                self.views[kernel] = False
        return self.views[kernel]


def _tensors(call: relax.Call) -> list[relax.Expr]:
    """What a kernel reads; sizes may follow."""
    return [one for one in call.args[1] if isinstance(one.ty, relax.TensorType)]
