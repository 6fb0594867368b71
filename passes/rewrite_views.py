"""A kernel that only copies its input in its order is a reshape of it: no kernel at all.

TVM's own ``RewriteDataflowReshape`` fails where it cannot divide a dynamic size [apache-tvm 0.27];
here such a kernel stays one.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.relax.expr_functor import PyExprMutator, mutator

from gq_tvm.passes.operators import is_operator
from gq_tvm.passes.relax_tools.rewriter import ModulePass


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
            source = self.visit_expr(binding.value.args[1][0])
            view = relax.op.reshape(source, binding.value.ty_args[0].shape)
            binding = relax.VarBinding(binding.var, view)
        super().visit_var_binding_(binding)

    def _is_view(self, call: relax.Expr) -> bool:
        if not is_operator(call, "relax.call_tir") or len(call.args) != 2:
            return False
        kernel, inputs = call.args
        result, function = call.ty_args[0], self.module[kernel]
        if len(inputs) != 1 or not isinstance(result, relax.TensorType):
            return False
        given = inputs[0].ty
        if given.dtype != result.dtype or given.shape is None or result.shape is None:
            return False
        elements = [math.prod(one.shape) for one in (given, result)]
        if not tvm.sym.Analyzer().can_prove_equal(*elements):
            return False
        if kernel not in self.views:
            try:
                self.views[kernel] = relax.analysis.has_reshape_pattern(function)
            except tvm.error.InternalError:
                self.views[kernel] = False
        return self.views[kernel]
