"""Give TVM's operators PyTorch's manners where they lack them.

Look-ups as imported read and write out of bounds for negative or too large indices. Here a negative
index counts from the end, as in PyTorch; one that is out of bounds, which PyTorch refuses, reads or
writes another place of the same tensor: ``take`` wraps it, the others take the nearest place.

``relax.nn.relu``, ``relax.clip``, ``relax.maximum`` and ``relax.minimum`` may lose a NaN; they keep
it after this pass. Reductions (``max`` and ``min`` over an axis, max pooling) are TVM's own and
still may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isinf
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.passes.operators import is_operator, shape_of
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass


@tvm.transform.module_pass(opt_level=0)
class Harden(ModulePass):
    """Replace ``take`` in mode fast, ``relu``, ``clip``, ``maximum``, ``minimum``; bound indices.

    Raises:
        Error: an index is of a kind that cannot be bounded.
    """

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, _harden).run()


def _harden(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
    if is_operator(call, "relax.take") and call.attrs.mode == "fast":
        return relax.op.take(*call.args, axis=call.attrs.axis, mode="wrap")
    if is_operator(call, "relax.gather_elements", "relax.scatter_elements"):
        return _along_axis(rewriter, call)
    if is_operator(call, "relax.index_tensor", "relax.index_put"):
        return _jointly(rewriter, call)
    if is_operator(call, "relax.gather_nd", "relax.scatter_nd"):
        raise Error(f"{call.op.name} is not safe for indices out of bounds; index with gather")
    if is_operator(call, "relax.nn.relu"):
        return _at_least(0.0, call.args[0])
    if is_operator(call, "relax.clip"):
        return _clip(rewriter, *call.args)
    if is_operator(call, "relax.maximum"):
        return _keep_nan(rewriter, relax.op.maximum, *call.args)
    if is_operator(call, "relax.minimum"):
        return _keep_nan(rewriter, relax.op.minimum, *call.args)
    return None


def _along_axis(rewriter: CallRewriter, call: relax.Call) -> relax.Expr:
    data, indices, *updates = call.args
    axis = int(call.attrs.axis)
    indices = _bounded(rewriter, indices, shape_of(data)[axis])
    return relax.Call(call.op, [data, indices, *updates], call.attrs, call.ty_args)


def _jointly(rewriter: CallRewriter, call: relax.Call) -> relax.Expr:
    """The i-th of several indices is one into the i-th axis."""
    data, indices, *updates = call.args
    bounded = relax.Tuple(
        [
            _bounded(rewriter, index, size)
            for index, size in zip(_fields(rewriter, indices), shape_of(data), strict=False)
        ]
    )
    return relax.Call(call.op, [data, bounded, *updates], call.attrs, call.ty_args)


def _fields(rewriter: CallRewriter, indices: relax.Expr) -> Sequence[relax.Expr]:
    if isinstance(indices, relax.Tuple):
        return list(indices.fields)
    count = len(indices.ty.fields)
    return [rewriter.emit(relax.TupleGetItem(indices, i)) for i in range(count)]


def _bounded(rewriter: CallRewriter, indices: relax.Expr, size: Any) -> relax.Expr:
    """`indices` with negative ones counted from the end, none outside 0 .. size - 1."""
    dtype = str(indices.ty.dtype)
    if not dtype.startswith("int"):
        raise Error(f"a tensor is indexed by {dtype}; use int64 indices, or torch.where for masks")
    if isinstance(indices, GenericConst) and isinstance(size, int):
        values = indices.value.numpy()
        positive = np.where(values < 0, values + size, values).clip(0, max(size - 1, 0))
        return relax.const(positive, dtype)

    def bound(tensor: te.Tensor, last: Any) -> te.Tensor:
        last = tirx.IntImm(dtype, last) if isinstance(last, int) else tirx.Cast(dtype, last)

        def one(*at: Any) -> Any:
            value = tensor[at]
            positive = tirx.Select(value < 0, value + last + 1, value)
            return tirx.max(tirx.min(positive, last), 0)

        return te.compute(tensor.shape, one, name="bound")

    return rewriter.emit(rewriter.builder_.call_te(bound, indices, size - 1))


def _clip(rewriter: CallRewriter, x: relax.Expr, low: relax.Expr, high: relax.Expr) -> relax.Expr:
    if not isinf(high.value):
        x = rewriter.emit(relax.op.minimum(_scalar(high.value, x), x))
    return x if isinf(low.value) else _at_least(low.value, x)


def _at_least(low: float, x: relax.Expr) -> relax.Expr:
    """The bound first: TVM's maximum returns its second operand when they do not compare."""
    return relax.op.maximum(_scalar(low, x), x)


def _keep_nan(
    rewriter: CallRewriter,
    operator: Callable[[relax.Expr, relax.Expr], relax.Call],
    a: relax.Expr,
    b: relax.Expr,
) -> relax.Expr | None:
    if not str(a.ty.dtype).startswith("float"):
        return None
    larger = rewriter.emit(operator(a, b))  # NaN wherever b is
    return relax.op.where(rewriter.emit(relax.op.isnan(a)), a, larger)


def _scalar(value: float, like: relax.Expr) -> relax.Expr:
    return relax.const(value, str(like.ty.dtype))
