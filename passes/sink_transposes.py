"""Move transpositions behind the operators that do not mind, until they cancel.

``f(permute(x))`` becomes ``permute(f(x))`` for functions of single elements, slices, splits and
sums of tensors transposed alike; a transposition of a transposition is one, and none if it leads
back. What convolutions were in [B, C, T] so runs on [B, T, C] from end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule
from tvm.relax.expr_functor import PyExprMutator, mutator

from gq_tvm.passes.operators import is_operator
from gq_tvm.passes.relax_tools.rewriter import ModulePass, tidied

_UNARY = (
    "relax.sigmoid", "relax.tanh", "relax.exp", "relax.log", "relax.sqrt", "relax.rsqrt",
    "relax.abs", "relax.negative", "relax.erf", "relax.clip", "relax.nn.relu", "relax.nn.silu",
    "relax.nn.gelu", "relax.nn.leakyrelu",
)  # fmt: skip
_BINARY = (
    "relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.maximum",
    "relax.minimum",
)  # fmt: skip

Axes = tuple[int, ...]


@tvm.transform.module_pass(opt_level=0)
class SinkTransposes(ModulePass):
    """Push ``permute_dims`` towards the outputs of every function; drop those that cancel."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        sinker = _Sinker(module)
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                sinker.builder_.update_func(gvar, sinker.visit_expr(function))
        return tidied(sinker.builder_.get())


@mutator
class _Sinker(PyExprMutator):
    def __init__(self, module: IRModule) -> None:
        super().__init__(module)
        # What a variable is a transposition of: another variable, by axes. Of tuples, each field.
        self.transposed: dict[relax.Var, tuple[relax.Var, Axes]] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Rewrite a binding, and note what it transposes."""
        value = self.visit_expr(binding.value)
        source, axes = self._sunk(value)
        if source is None:
            self._bind(binding, value)
            return
        if axes == tuple(range(len(axes))):
            self._bind(binding, source)
            return
        source = source if isinstance(source, relax.Var) else self.builder_.emit(source)
        if isinstance(source.ty, relax.TupleType):  # only its fields are used
            self._bind(binding, value)
        else:
            self._bind(binding, relax.op.permute_dims(source, list(axes)))
        self.transposed[self.visit_expr(binding.var)] = (source, axes)

    def _bind(self, binding: relax.VarBinding, value: relax.Expr) -> None:
        super().visit_var_binding_(relax.VarBinding(binding.var, value))

    def _sunk(self, value: relax.Expr) -> tuple[relax.Expr | None, Axes]:
        """What `value` is a transposition of, and by which axes."""
        if is_operator(value, "relax.permute_dims") and isinstance(value.args[0], relax.Var):
            rank = value.args[0].ty.ndim
            axes = value.attrs.axes
            outer = tuple(int(a) % rank for a in axes) if axes else tuple(reversed(range(rank)))
            source, inner = self.transposed.get(value.args[0], (value.args[0], tuple(range(rank))))
            return source, tuple(inner[axis] for axis in outer)
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.transposed:
            source, axes = self.transposed[value.tuple_value]
            return relax.TupleGetItem(source, value.index), axes
        if not isinstance(value, relax.Call):
            return None, ()
        found = [self.transposed[arg] for arg in value.args if arg in self.transposed]
        if not found or any(axes != found[0][1] for _, axes in found):
            return None, ()
        return self._inside(value, found[0][1]), found[0][1]

    def _inside(self, call: relax.Call, axes: Axes) -> relax.Expr | None:
        """`call` on what its arguments are transpositions of, if that can be."""
        first, *rest = call.args
        if is_operator(call, *_UNARY) and first in self.transposed:
            return relax.Call(call.op, [self.transposed[first][0], *rest], call.attrs)
        if is_operator(call, *_BINARY):
            args = [self._operand(arg, axes) for arg in call.args]
            known = all(arg is not None for arg in args)
            return relax.Call(call.op, args, call.attrs) if known else None
        if is_operator(call, "relax.split"):
            sections = call.attrs.indices_or_sections
            sections = int(sections) if not isinstance(sections, Sequence) else list(sections)
            axis = axes[int(call.attrs.axis) % len(axes)]
            return relax.op.split(self.transposed[first][0], sections, axis)
        if is_operator(call, "relax.strided_slice"):
            return self._slice(call, axes)
        return None

    def _operand(self, arg: relax.Expr, axes: Axes) -> relax.Expr | None:
        """An operand of a function of two tensors, as it was before the transposition."""
        if arg in self.transposed:
            return self.transposed[arg][0]
        if not isinstance(arg, GenericConst):
            return None
        array = arg.value.numpy()
        if array.ndim == 0:
            return arg
        array = array.reshape((1,) * (len(axes) - array.ndim) + array.shape)
        return relax.const(np.ascontiguousarray(array.transpose(np.argsort(axes))))

    def _slice(self, call: relax.Call, axes: Axes) -> relax.Expr | None:
        x, along, *bounds = call.args
        if not isinstance(along, relax.Tuple):
            return None
        moved = relax.Tuple([_prim(axes[_int(axis) % len(axes)]) for axis in along.fields])
        return relax.Call(call.op, [self.transposed[x][0], moved, *bounds], call.attrs)


def _int(value: Any) -> int:
    return int(value.value) if hasattr(value, "value") else int(value)


def _prim(value: int) -> Any:
    return tvm.tirx.IntImm("int64", value)
