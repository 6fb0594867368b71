"""Recognise codebooks spelled in plain PyTorch: ``F.linear(x, codebook[indices.long()], bias)``.

So is ``F.embedding`` of such a weight. The weight may be a look-up of the indices in any shape that
is reshaped to the weight's, or a gather from a codebook with a row for each row of the weight. A
look-up among constants that is spelled otherwise is told of: it becomes a float weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log2

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule
from tvm.relax.dpl import DFPattern, is_op, rewrite_call, wildcard

from gq_tvm.passes.operators import codebook_embedding, codebook_linear, is_operator, shape_of
from gq_tvm.passes.parameters import digest
from gq_tvm.passes.relax_tools.rewriter import ModulePass

MOST_CENTROIDS = 256  # an index is a byte

Values = Mapping[relax.Var, relax.Expr]


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
        module = relax.transform.DeadCodeElimination()(module)
        for function in module.functions.values():
            if isinstance(function, relax.Function):
                self._tell_of_others(function)
        return module

    def _rewrite(self, function: relax.Function) -> relax.Function:
        x, weight, bias = (wildcard() for _ in range(3))
        product = is_op("relax.matmul")(x, is_op("relax.permute_dims")(weight))
        biased = is_op("relax.add")(bias, product) | is_op("relax.add")(product, bias)
        values = relax.analysis.get_var2val(function)

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

    def _embedding(self, ids: relax.Expr, weight: tuple[NDArray, NDArray, NDArray]) -> relax.Call:
        named, codes, table = weight
        bits = max(1, ceil(log2(table.shape[1])))
        return codebook_embedding(
            relax.op.astype(ids, "int64"),
            relax.const(codes.astype(np.uint8)),
            relax.const(_full(table, bits)),
            bits=bits,
            layer=self._name(named),
        )

    def _layer(
        self,
        x: relax.Expr,
        weight: tuple[NDArray, NDArray, NDArray] | None,
        bias: relax.Expr | None,
    ) -> relax.Call | None:
        if weight is None:
            return None
        named, codes, table = weight
        if bias is None:
            bias = relax.const(np.zeros(len(codes), np.float32))
        elif not isinstance(bias, GenericConst) or shape_of(bias) != [len(codes)]:
            return None
        bits = max(1, ceil(log2(table.shape[1])))
        return codebook_linear(
            x,
            relax.const(codes.astype(np.uint8)),
            relax.const(_full(table, bits)),
            bias,
            bits=bits,
            activation=self.activation,
            layer=self._name(named),
        )

    def _name(self, codes: NDArray) -> str:
        name = self.names.get(digest(codes), "codebook")
        return name.rpartition(".")[0] or name

    def _tell_of_others(self, function: relax.Function) -> None:
        """Warn of look-ups among constants: once folded, nothing tells them from float weights."""
        values = relax.analysis.get_var2val(function)
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


def _looked_up(weight: relax.Expr, values: Values) -> tuple[NDArray, NDArray, NDArray] | None:
    """A weight that is a look-up among constants.

    Returns:
        The indices as the model has them, as the weight [N, K] has them, and the table f32 [1 or N,
        centroids]; None if it is another weight.
    """
    shape = shape_of(weight)
    call = _behind(weight, values, "relax.reshape")
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
    return codes, codes.reshape(shape), np.atleast_2d(table)


def _among_constants(call: relax.Expr, values: Values) -> tuple[NDArray, NDArray] | None:
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


def _leaves(expr: relax.Expr, values: Values) -> list[relax.Expr]:
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


def _behind(expr: relax.Expr, values: Values, *operators: str) -> relax.Expr:
    """What `expr` is bound to, or what the `operators` on top of that are applied to."""
    while True:
        if isinstance(expr, relax.Var) and expr in values:
            expr = values[expr]
        elif is_operator(expr, *operators):
            expr = expr.args[0]
        else:
            return expr


def _array(expr: relax.Expr, values: Values) -> NDArray | None:
    expr = _behind(expr, values)
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


def _table(expr: relax.Expr, values: Values) -> NDArray | None:
    """A constant, in another shape or one row of it, as in ``codebook[0]``."""
    behind = _behind(expr, values, "relax.reshape", "relax.squeeze")
    if is_operator(behind, "relax.take") and len(shape_of(behind)) == 1:
        table, row = _array(behind.args[0], values), _array(behind.args[1], values)
        if table is None or row is None or row.ndim or behind.attrs.axis != 0:
            return None
        return np.take(table, row, axis=0).reshape(shape_of(expr))
    array = _array(behind, values)
    return None if array is None else array.reshape(shape_of(expr))


def _full(table: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """The table with zeros for the centroids it lacks up to 2^bits."""
    return np.pad(table, ((0, 0), (0, 2**bits - table.shape[1])))
