"""The mutator the passes build on: rewrite calls, and give a function new parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import register_error

from gq_tvm.errors import Error

# A refusal inside a pass goes through TVM, which else gives it back as a RuntimeError.
register_error("gq_tvm.Error", Error)

NUM_INPUT = "num_input"  # TVM's attribute: how many leading parameters are not weights


class ModulePass:
    """Base of the passes: ``tvm.transform.module_pass`` makes them callable."""

    if TYPE_CHECKING:

        def __call__(self, module: IRModule) -> IRModule:
            """Apply the pass."""


@mutator
class CallRewriter(PyExprMutator):
    """Replace the calls and constants for which a function returns something else than None.

    Args:
        module: The module to rewrite.
        rewrite: Given this rewriter and a call, its arguments rewritten already.
        constant: Given this rewriter and a constant.
    """

    def __init__(
        self,
        module: IRModule,
        rewrite: Callable[[CallRewriter, relax.Call], relax.Expr | None] = lambda _, call: None,
        constant: Callable[[CallRewriter, GenericConst], relax.Expr | None] = lambda _, value: None,
    ) -> None:
        super().__init__(module)
        self.rewrite = rewrite
        self.constant = constant
        self.refusal: Error | None = None
        self.new_parameters: dict[str, relax.Var] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Rewrite a call."""
        call = super().visit_call_(call)
        return self._rewritten(self.rewrite, call)

    def visit_generic_const_(self, value: GenericConst) -> relax.Expr:
        """Rewrite a constant."""
        return self._rewritten(self.constant, value)

    def _rewritten(self, rewrite: Callable[..., relax.Expr | None], expr: Any) -> relax.Expr:
        """What `rewrite` makes of an expression; once it refused one, nothing is rewritten.

        A refusal waits for the end of the function: TVM warns of a builder that is left halfway.
        """
        if self.refusal is not None:
            return expr
        try:
            new = rewrite(self, expr)
        except Error as refusal:
            self.refusal = refusal
            return expr
        return expr if new is None else new

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind `expr` to a variable in front of the call being rewritten."""
        return self.builder_.emit(expr)

    def parameter(self, name: str, shape: tuple[int, ...], dtype: str) -> relax.Var:
        """The parameter `name` of the function being rewritten, added on first use."""
        if name not in self.new_parameters:
            self.new_parameters[name] = relax.Var(name, relax.TensorType(shape, dtype))
        return self.new_parameters[name]

    def run(self, only: Callable[[relax.Function], bool] = lambda function: True) -> IRModule:
        """Rewrite the Relax functions of the module and return it.

        Raises:
            Error: what the first refusal of `rewrite` or `constant` said.
        """
        module = self.builder_.get()
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function) and only(function):
                self.new_parameters = {}
                new = self.visit_expr(function)
                if self.refusal is not None:
                    raise self.refusal
                self.builder_.update_func(gvar, _extended(new, list(self.new_parameters.values())))
        return self.builder_.get()


def _extended(function: relax.Function, parameters: list[relax.Var]) -> relax.Function:
    """`function` with `parameters` behind its own; attribute "num_input" counts the inputs."""
    if not parameters:
        return function
    if NUM_INPUT not in (function.attrs or {}):
        function = function.with_attr(NUM_INPUT, len(function.params))
    return relax.Function(
        [*function.params, *parameters],
        function.body,
        function.ret_ty,
        function.is_pure,
        function.attrs,
    )


def inputs_of(function: relax.Function) -> list[relax.Var]:
    """The parameters of a function that are not weights."""
    count = (function.attrs or {}).get(NUM_INPUT, len(function.params))
    return list(function.params)[: int(count)]


@mutator
class BindingRewriter(PyExprMutator):
    """Give variables other values, as `values` says by variable."""

    def __init__(self, module: IRModule, values: dict[relax.Var, relax.Expr]) -> None:
        super().__init__(module)
        self.values = values

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Rewrite a binding."""
        value = self.values.get(binding.var)
        super().visit_var_binding_(
            binding if value is None else relax.VarBinding(binding.var, value)
        )

    def run(self) -> IRModule:
        """Rewrite the Relax functions of the module and return it, without what is unused now."""
        module = self.builder_.get()
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                self.builder_.update_func(gvar, self.visit_expr(function))
        return tidied(self.builder_.get())


def tidied(module: IRModule) -> IRModule:
    """The module without bindings of a variable to another, and of what is not used."""
    steps = (relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination())
    return tvm.transform.Sequential(steps)(module)


def calls_of(module: IRModule) -> list[relax.Call]:
    """The calls in the Relax functions of a module."""
    calls: list[relax.Call] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call):
            calls.append(expr)

    for _, function in module.functions_items():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return calls
