"""Take a batch norm's constants into the layer before it, or into one product and one sum.

In a model that is not trained any more, ``batch_norm(x) = x * factor + shift`` with a factor and a
shift per channel. Behind a convolution or a linear layer the factor goes into the scales of the
weight, which are rounded once more (relative 2^-24), and into the bias; the indices and the tables
stay, so integer sums are the same ones.
"""

from __future__ import annotations

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.passes.operators import (
    CONV1D,
    CONV2D,
    LINEAR,
    attributes,
    behind_weights,
    is_operator,
    weight_of,
    with_args,
    with_weight,
)
from gq_tvm.passes.relax_tools.dataflow import Users, users, values
from gq_tvm.passes.relax_tools.rewriter import BindingRewriter, ModulePass


@tvm.transform.module_pass(opt_level=0)
class FoldBatchNorm(ModulePass):
    """``nn.batch_norm`` of constants goes into the codebook layer before it."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        new: dict[relax.Var, relax.Expr] = {}
        for _gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                new |= _folded(values(function), users(function))
        return BindingRewriter(module, new).run() if new else module


def _folded(value_of: dict[relax.Var, relax.Expr], users: Users) -> dict[relax.Var, relax.Expr]:
    """The new values of the variables that change."""
    new: dict[relax.Var, relax.Expr] = {}
    for var, norm in value_of.items():
        if not is_operator(norm, "relax.nn.batch_norm") or not _is_constant(norm):
            continue
        first = [user for user in users[var] if _field(value_of.get(user)) == 0]
        if len(first) != len(users[var]):
            continue  # its running statistics are read, too
        factor, shift = _factor_and_shift(norm)
        x, axis = norm.args[0], int(norm.attrs.axis)
        layer = value_of.get(x)
        folded = None
        rows_axis = 1 if is_operator(layer, CONV1D, CONV2D) else norm.args[0].ty.ndim - 1
        if (
            users.get(x) == {var}
            and axis == rows_axis
            and is_operator(layer, CONV1D, CONV2D, LINEAR)
        ):
            folded = _into(layer, factor, shift)
        if folded is not None:
            new[x] = folded
        shape = [1] * axis + [len(factor)] + [1] * (norm.args[0].ty.ndim - axis - 1)
        factor, shift = factor.reshape(shape[axis:]), shift.reshape(shape[axis:])
        for user in first:
            scaled = relax.op.multiply(x, relax.const(factor.astype(np.float32)))
            plain = relax.op.add(scaled, relax.const(shift.astype(np.float32)))
            new[user] = plain if folded is None else x
    return new


def _field(value: relax.Expr | None) -> int | None:
    return int(value.index) if isinstance(value, relax.TupleGetItem) else None


def _is_constant(norm: relax.Call) -> bool:
    return all(isinstance(arg, GenericConst) for arg in norm.args[1:]) and not norm.attrs.training


def _factor_and_shift(norm: relax.Call) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gamma, beta, mean, variance = (arg.value.numpy().astype(np.float64) for arg in norm.args[1:])
    factor = 1 / np.sqrt(variance + float(norm.attrs.epsilon))
    if norm.attrs.scale:
        factor = factor * gamma
    return factor, (beta if norm.attrs.center else 0) - mean * factor


def _into(
    layer: relax.Call, factor: NDArray[np.float64], shift: NDArray[np.float64]
) -> relax.Call | None:
    """`layer` with its scales multiplied and its outputs shifted; None if it has an epilogue."""
    weight, at = weight_of(layer), behind_weights(layer)
    bias = layer.args[at]
    if attributes(layer)["epilogue"] or len(layer.args) > at + 1:
        return None
    if weight is None or not isinstance(bias, GenericConst):
        return None
    args = with_weight(layer, weight.fold(factor.astype(np.float32)))
    args[at] = relax.const((bias.value.numpy() * factor + shift).astype(np.float32))
    return with_args(layer, args)
