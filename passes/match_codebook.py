"""Recognise codebooks spelled in plain PyTorch: ``F.linear(x, codebook[indices.long()], bias)``.

So is ``F.embedding`` of such a weight. The weight may be a look-up of the indices in any shape that
is reshaped to the weight's, or a gather from a codebook with a row for each row of the weight; less
zero points and times scales of the tensor, its rows or, as [N, J, g], groups of inputs. A look-up
among constants that is spelled otherwise is told of: it becomes a float weight. Tables of rows that
are multiples of one, however spelled, become one table and scales here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule
from tvm.relax.dpl import DFPattern, is_op, rewrite_call, wildcard

from gq_tvm.ops.checks import GROUPS
from gq_tvm.ops.weight import Weight
from gq_tvm.passes.operators import (
    WEIGHTS,
    attributes,
    codebook_embedding,
    codebook_linear,
    form_of,
    is_operator,
    shape_of,
    weight_constants,
    weight_of,
    with_args,
    with_weight,
)
from gq_tvm.passes.parameters import digest
from gq_tvm.passes.relax_tools import dataflow
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass

MOST_CENTROIDS = 256  # an index is a byte


@tvm.transform.module_pass(opt_level=0)
class MatchCodebook(ModulePass):
    """Turn products with a look-up, and rows of one, into codebook operators.

    Args:
        names: What constants are called in the model, by ``parameters.digest``.
        activation: The activation of the layers found; a plain spelling cannot say it.
        warn: Called with a sentence on every look-up that will be expanded to floats.
    """

    def __init__(
        self,
        names: Mapping[str, str] | None = None,
        activation: str = "fp32",
        warn: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.names = names or {}
        self.activation = activation
        self.warn = warn

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        for gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                module.update_func(gvar, self._rewrite(function))
        module = relax.transform.DeadCodeElimination()(CallRewriter(module, _apart).run())
        for function in module.functions.values():
            if isinstance(function, relax.Function):
                self._tell_of_others(function)
        return module

    def _rewrite(self, function: relax.Function) -> relax.Function:
        x, weight, bias = (wildcard() for _ in range(3))
        product = is_op("relax.matmul")(x, is_op("relax.permute_dims")(weight))
        biased = is_op("relax.add")(bias, product) | is_op("relax.add")(product, bias)
        values = dataflow.values(function)

        def rewrite(original: relax.Expr, found: Mapping[DFPattern, relax.Expr]) -> relax.Expr:
            new = self._layer(found[x], _looked_up(found[weight], values), found.get(bias))
            return original if new is None else new

        def rewrite_rows(original: relax.Call, found: Mapping[DFPattern, relax.Expr]) -> relax.Expr:
            looked_up = _looked_up(found[weight], values)
            ids = _behind(found[x], values)
            if looked_up is None or original.attrs.axis != 0 or isinstance(ids, GenericConst):
                return original
            return self._embedding(found[x], looked_up)

        rows = is_op("relax.take")(weight, x)
        # With the bias first: a product alone would hide it.
        for pattern in (biased, product):
            function = rewrite_call(pattern, rewrite, function)
        return rewrite_call(rows, rewrite_rows, function)

    def _embedding(self, ids: relax.Expr, found: _Found) -> relax.Call:
        return codebook_embedding(
            relax.op.astype(ids, "int64"),
            weight_constants(found.weight("fp32")),
            layer=self._name(found.named),
        )

    def _layer(
        self, x: relax.Expr, found: _Found | None, bias: relax.Expr | None
    ) -> relax.Call | None:
        if found is None:
            return None
        rows = len(found.codes)
        if bias is None:
            bias = relax.const(np.zeros(rows, np.float32))
        elif not isinstance(bias, GenericConst) or shape_of(bias) != [rows]:
            return None
        return codebook_linear(
            x,
            weight_constants(found.weight(self.activation)),
            bias,
            activation=self.activation,
            layer=self._name(found.named),
        )

    def _name(self, codes: NDArray) -> str:
        name = self.names.get(digest(codes), "codebook")
        return name.rpartition(".")[0] or name

    def _tell_of_others(self, function: relax.Function) -> None:
        """Warn of look-ups among constants: once folded, nothing tells them from float weights."""
        values = dataflow.values(function)
        for call in values.values():
            found = _among_constants(call, values)
            if found is not None and len(shape_of(call)) >= 2:
                named = [self.names[digest(c)] for c in found if digest(c) in self.names]
                what = f"of {named[0]} " if named else ""
                self.warn(
                    f"a codebook look-up {what}is not a layer gq-tvm knows and its weight "
                    f"{shape_of(call)} is kept in float32; write it as F.linear(x, "
                    "codebook[indices.long()])"
                )


@dataclass(frozen=True)
class _Found:
    """A weight [N, K] spelled as a look-up among constants.

    Attributes:
        named: The indices as the model has them.
        codes: As the weight has them, [N, K].
        table: f32 [1 or N, centroids].
        scale: [1], [N] or [N, J], or None for 1.
        zero: Of the scale's shape, or None.
    """

    named: NDArray
    codes: NDArray
    table: NDArray[np.float32]
    scale: NDArray[np.float32] | None = None
    zero: NDArray[np.float32] | None = None

    def weight(self, activation: str) -> Weight:
        """The weight, its table filled up with zeros to 2^bits."""
        bits = max(1, ceil(log2(self.table.shape[1])))
        table = np.pad(self.table, ((0, 0), (0, 2**bits - self.table.shape[1])))
        codes = self.codes.astype(np.uint8)
        if self.scale is None:
            return Weight.from_tables(codes, table, activation)
        return Weight(codes, table, self.scale, self.zero)


def _looked_up(weight: relax.Expr, values: dataflow.Values) -> _Found | None:
    """A weight that is a look-up among constants, perhaps less a zero point, times a scale."""
    shape = shape_of(weight)
    call, scale, zero = _behind(weight, values, "relax.reshape"), None, None
    if is_operator(call, "relax.multiply"):
        scale = _per_group(call, 1, shape, values)
        call = _behind(call.args[0], values)
        if scale is None:
            return None
    if is_operator(call, "relax.subtract"):
        zero = _per_group(call, 1, shape, values)
        scale = np.ones(1, np.float32) if scale is None else scale
        if zero is None:
            return None
        wider = max((scale, zero), key=lambda one: (one.ndim, one.size)).shape
        scale, zero = (_spread(one, wider) for one in (scale, zero))
        call = _behind(call.args[0], values)
    call = _behind(call, values, "relax.reshape")
    if len(shape) != 2 or not is_operator(call, "relax.take", "relax.gather_elements"):
        return None
    table = _table(call.args[0], values)
    codes = _array(_behind(call.args[1], values, "relax.reshape", "relax.astype"), values)
    if table is None or codes is None or table.dtype != np.float32 or codes.dtype.kind not in "iu":
        return None
    axis = None if call.attrs.axis is None else int(call.attrs.axis)
    if is_operator(call, "relax.take"):
        fits = table.ndim == 1 and axis in (None, 0)
    else:
        fits = table.ndim == 2 and axis in (1, -1) and shape_of(call) == shape
        fits = fits and table.shape[0] == shape[0]
    if not fits or not 0 < table.shape[-1] <= MOST_CENTROIDS:
        return None
    if not codes.size or not 0 <= codes.min() <= codes.max() < table.shape[-1]:
        return None
    return _Found(codes, codes.reshape(shape), np.atleast_2d(table), scale, zero)


def _per_group(
    call: relax.Call, place: int, shape: Sequence[Any], values: dataflow.Values
) -> NDArray[np.float32] | None:
    """The constant at `place` of the arguments, a factor or summand of the tensor, rows or groups.

    Groups of inputs are an axis of their own there: [N, J, g].

    Returns:
        f32 [1], [N] or [N, J], or None if it is something else.
    """
    constant = _behind(call.args[place], values, "relax.reshape", "relax.expand_dims")
    array, form = _array(constant, values), shape_of(call)
    array = None if array is None else array.reshape(shape_of(call.args[place]))
    if array is None or array.dtype != np.float32 or array.ndim > len(form):
        return None
    if array.size == 1:
        return array.reshape(1)
    whole = [1] * (len(form) - array.ndim) + list(array.shape)
    if form == shape and whole == [shape[0], 1]:
        return array.reshape(-1)
    grouped = len(form) == 3 and form[0] == shape[0] and form[2] in GROUPS
    if grouped and form[1] * form[2] == shape[1] and whole == [*form[:2], 1]:
        return array.reshape(form[:2])
    return None


def _spread(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Values [1], [N] or [N, J] in a wider one of these shapes."""
    column = array[:, None] if array.ndim < len(shape) else array
    return np.ascontiguousarray(np.broadcast_to(column, shape))


def _apart(_: CallRewriter, call: relax.Call) -> relax.Expr | None:
    """Give a weight with a table for each row one table and scales, where that is what they are."""
    new = call
    for part in WEIGHTS[call.op.name] if is_operator(call, *WEIGHTS) else ():
        weight = weight_of(call, part)
        if weight is None or form_of(call, part)["tables"] < 2 or weight.zero is not None:
            continue
        if not np.array_equal(weight.scale, np.ones(1)):
            continue
        activation = attributes(call).get("activation", "fp32")
        weight = Weight.from_tables(weight.indices, weight.codebook, activation)
        new = with_args(new, with_weight(new, weight, part))
    return None if new is call else new


def _among_constants(call: relax.Expr, values: dataflow.Values) -> tuple[NDArray, NDArray] | None:
    """The largest constant behind the indices of a look-up of single floats, and its table."""
    if not is_operator(call, "relax.take", "relax.gather_elements", "relax.index_tensor"):
        return None
    table, indices = _table(call.args[0], values), _behind(call.args[1], values)
    if table is None or table.dtype.kind != "f":
        return None
    known = len(indices.fields) if isinstance(indices, relax.Tuple) else 1
    if not is_operator(call, "relax.gather_elements") and table.ndim != known:
        return None  # rows, as of an embedding
    leaves = _leaves(indices, values)
    arrays = [leaf.value.numpy() for leaf in leaves if isinstance(leaf, GenericConst)]
    if not arrays or len(arrays) < len(leaves):
        return None
    return max(arrays, key=lambda array: array.size), table


def _leaves(expr: relax.Expr, values: dataflow.Values) -> list[relax.Expr]:
    """The constants and parameters that `expr` is computed from."""
    leaves, waiting, seen = [], [expr], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, relax.Var):
            if one in seen:
                continue
            seen.add(one)
        one = _behind(one, values)
        if isinstance(one, relax.Call):
            waiting.extend(one.args)
        elif isinstance(one, relax.Tuple):
            waiting.extend(one.fields)
        elif isinstance(one, relax.TupleGetItem):
            waiting.append(one.tuple_value)
        elif isinstance(one, GenericConst | relax.Var):
            leaves.append(one)
    return leaves


def _behind(expr: relax.Expr, values: dataflow.Values, *operators: str) -> relax.Expr:
    """What `expr` is bound to, or what the `operators` on top of that are applied to."""
    while True:
        if isinstance(expr, relax.Var) and expr in values:
            expr = values[expr]
        elif is_operator(expr, *operators):
            expr = expr.args[0]
        else:
            return expr


def _array(expr: relax.Expr, values: dataflow.Values) -> NDArray | None:
    expr = _behind(expr, values)
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


def _table(expr: relax.Expr, values: dataflow.Values) -> NDArray | None:
    """A constant, in another shape or one row of it, as in ``codebook[0]``."""
    behind = _behind(expr, values, "relax.reshape", "relax.squeeze")
    if is_operator(behind, "relax.take") and len(shape_of(behind)) == 1:
        table, row = _array(behind.args[0], values), _array(behind.args[1], values)
        if table is None or row is None or row.ndim or behind.attrs.axis != 0:
            return None
        return np.take(table, row, axis=0).reshape(shape_of(expr))
    array = _array(behind, values)
    return None if array is None else array.reshape(shape_of(expr))
