"""Find the weights that are codebooks: spelled in plain PyTorch, or floats of few values.

``F.linear(x, codebook[indices.long()], bias)``, a convolution, ``F.embedding`` and recurrent layers
of such weights become codebook operators. The weight may be whatever constants are computed to (see
``relax_tools.constants``): less zero points and times scales of the tensor, its rows or groups of
inputs it is the codebook it is spelled as; of few values, the codebook that has these (see
``ops.palettes``). A look-up among constants that is neither is told of: it becomes a float weight.
Tables of rows that are multiples of one become one table and scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.ops.checks_recurrent import CELLS, functions_of
from gq_tvm.ops.weight import Weight
from gq_tvm.passes.found_weight import weight_in
from gq_tvm.passes.operators import (
    CONV1D,
    CONV2D,
    LINEAR,
    RECURRENT,
    RECURRENT_LAYERS,
    WEIGHTS,
    attributes,
    behind_weights,
    codebook_conv1d,
    codebook_conv2d,
    codebook_embedding,
    codebook_linear,
    codebook_recurrent,
    form_of,
    is_float,
    is_operator,
    same_shape,
    shape_of,
    weight_constants,
    weight_of,
    with_args,
    with_weight,
)
from gq_tvm.passes.parameters import digest
from gq_tvm.passes.relax_tools import dataflow
from gq_tvm.passes.relax_tools.constants import Constants, LookUp
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass

_MOST_NAMED = 4  # in the sentence on what was found
_LAYOUTS = ("NCW", "OIW", "NCW"), ("NCHW", "OIHW", "NCHW")  # of data, weight and outputs


@tvm.transform.module_pass(opt_level=0)
class MatchCodebook(ModulePass):
    """Turn products and convolutions with a codebook, and rows of one, into codebook operators.

    Args:
        names: What constants are called in the model, by ``parameters.digest``.
        activation: The activation of the layers found; floats cannot say it.
        warn: Called with a sentence on every look-up that will be expanded to floats.
        tell: Called with a sentence on the float weights that are codebooks.
    """

    def __init__(
        self,
        names: Mapping[str, str] | None = None,
        activation: str = "fp32",
        warn: Callable[[str], object] = lambda text: None,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.names = names or {}
        self.activation = activation
        self.warn = warn
        self.tell = tell

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        found: dict[str, Weight] = {}
        for name in [one for one, _ in module.functions_items()]:
            function = module[name]
            if isinstance(function, relax.Function):
                layers = _Layers(function, self)
                module = CallRewriter(module, layers.rewrite).run(function.same_as)
                found |= layers.found
        if found:
            self.tell(_sentence(found))
        for layer, weight in found.items():
            if weight.codebook.shape[-2] > 1:
                self.warn(
                    f"{layer} holds few values in each {_parts(weight)} but others in each, and no "
                    "kernel is quick with so many tables; with one table and scales it would be"
                )
        module = relax.transform.DeadCodeElimination()(CallRewriter(module, _apart).run())
        for function in module.functions.values():
            if isinstance(function, relax.Function):
                self._tell_of_others(Constants(function))
        return module

    def _tell_of_others(self, constants: Constants) -> None:
        """Warn of look-ups among constants: once folded, nothing tells them from float weights."""
        for call in constants.values.values():
            found = _among_constants(call, constants)
            if found is not None and len(shape_of(call)) >= 2:
                named = self.names.get(digest(found))
                what = f"of {named} " if named else ""
                self.warn(
                    f"a codebook look-up {what}is not a layer gq-tvm knows and its weight "
                    f"{shape_of(call)} is kept in float32; write it as F.linear(x, "
                    "codebook[indices.long()])"
                )


class _Layers:
    """The layers of one function.

    Attributes:
        found: The float weights that are codebooks, by what they are called.
    """

    def __init__(self, function: relax.Function, options: MatchCodebook) -> None:
        self.constants = Constants(function)
        self.users = dataflow.users(function)
        self.names, self.activation = options.names, options.activation
        self.found: dict[str, Weight] = {}
        self._weights: dict[tuple[relax.Expr, bool], tuple[Weight, str] | None] = {}
        self._zeros: set[relax.Expr] = set()  # the biases of layers made here

    def rewrite(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        """The layer that a call is, or None."""
        if is_operator(call, "relax.matmul"):
            return self._linear(rewriter, call)
        if is_operator(call, "relax.nn.conv1d", "relax.nn.conv2d"):
            return self._convolution(call)
        if is_operator(call, RECURRENT):
            return self._recurrent(call)
        if is_operator(call, "relax.take"):
            return self._embedding(rewriter, call)
        if is_operator(call, "relax.add"):
            first, second = call.args
            biased = self._biased(rewriter, first, second)
            return self._biased(rewriter, second, first) if biased is None else biased
        return None

    def _linear(self, rewriter: CallRewriter, call: relax.Call) -> relax.Call | None:
        x, matrix = (_unspread(self.constants, one) for one in call.args)
        if x.ty.ndim < 2 or matrix.ty.ndim != 2 or not is_float(call.args[0]):
            return None
        leading = shape_of(call)[:-2]
        if self.constants.of(x) is not None or x.ty.ndim < len(leading) + 2:
            return None
        found = self._weight(matrix, transposed=True)
        if found is None:
            return None
        weight, layer = found
        bias, held = self._no_bias(weight), weight_constants(weight)
        return codebook_linear(x, held, bias, activation=self.activation, layer=layer)

    def _convolution(self, call: relax.Call) -> relax.Call | None:
        at, (x, _), axes = call.attrs, call.args, call.args[0].ty.ndim - 2
        ends, groups = [int(one) for one in at.padding], int(at.groups)
        left, right = ends[:axes], ends[axes:]
        layouts = str(at.data_layout), str(at.kernel_layout), str(at.out_layout)
        if layouts not in _LAYOUTS or left != right or not is_float(x):
            return None
        found = None if axes > 1 and groups > 1 else self._weight(call.args[1])
        if found is None or self.constants.of(x) is not None:
            return None
        weight, layer = found
        stride, dilation = ([int(one) for one in sizes] for sizes in (at.strides, at.dilation))
        operands = x, weight_constants(weight), self._no_bias(weight)
        one_channel = groups > 1 == weight.indices.shape[1]
        if axes > 1:
            return codebook_conv2d(
                *operands,
                stride=stride,
                padding=left,
                dilation=dilation,
                activation=self.activation,
                layer=layer,
            )
        return codebook_conv1d(
            *operands,
            stride=stride[0],
            padding=left[0],
            dilation=dilation[0],
            groups=groups,
            activation="fp32" if one_channel else self.activation,
            layer=layer,
        )

    def _recurrent(self, call: relax.Call) -> relax.Call | None:
        """The layer by weights in codebooks; None if there is no such, or one is in float."""
        at = attributes(call)
        functions = functions_of(at["cell"], at["functions"])
        own = 1 + CELLS[at["cell"]].states
        ih, hh, bias_ih, bias_hh, *more = call.args[own:]
        weights, lengths = [ih, hh, *more[: at["projection"]]], more[at["projection"] :]
        for operator, kind in RECURRENT_LAYERS.items():
            alike = kind.cell == at["cell"] and functions_of(kind.cell, kind.functions) == functions
            if not alike or len(kind.parts) != len(weights) or at["clip"]:
                continue
            found = [self._weight(one) for one in weights]
            known = [self.constants.of(one) for one in (bias_ih, bias_hh)]
            biases = [one for one in known if isinstance(one, np.ndarray)]
            if None in found or len(biases) < 2:
                return None
            kept = biases if len(kind.biases) > 1 else [biases[0] + biases[1]]
            arrays = [one for weight in found if weight for one in weight_constants(weight[0])]
            return codebook_recurrent(
                operator,
                [*call.args[:own], *arrays, *map(relax.const, kept)],
                lengths[0] if lengths else None,
                reverse=bool(at["reverse"]),
                activation=self.activation,
                layer=at["layer"],
            )
        return None

    def _embedding(self, rewriter: CallRewriter, call: relax.Call) -> relax.Call | None:
        rows, ids = call.args
        if call.attrs.axis != 0 or rows.ty.ndim != 2 or self.constants.of(ids) is not None:
            return None
        found = self._weight(rows)
        if found is None:
            return None
        weight, layer = found
        long = rewriter.emit(relax.op.astype(ids, "int64"))
        return codebook_embedding(long, weight_constants(weight), layer=layer)

    def _biased(
        self, rewriter: CallRewriter, product: relax.Expr, summand: relax.Expr
    ) -> relax.Call | None:
        """A layer made here with the constant that is added to it alone as its bias."""
        layer = rewriter.builder_.lookup_binding(product) if _is_var(product) else None
        if not is_operator(layer, LINEAR, CONV1D, CONV2D) or len(self.users.get(product, ())) != 1:
            return None
        bias = self.constants.of(summand)
        bias = bias.values() if isinstance(bias, LookUp) else bias
        rows, at = shape_of(layer.args[1])[0], behind_weights(layer)
        form = (rows, *[1] * (0 if is_operator(layer, LINEAR) else layer.args[0].ty.ndim - 2))
        if bias is None or bias.dtype != np.float32 or layer.args[at] not in self._zeros:
            return None
        if bias.size != rows or bias.shape[-len(form) :] != form:
            return None
        args = list(layer.args)
        args[at] = relax.const(bias.reshape(rows))
        return with_args(layer, args)

    def _no_bias(self, weight: Weight) -> relax.Expr:
        zeros = relax.const(np.zeros(weight.rows, np.float32))
        self._zeros.add(zeros)
        return zeros

    def _weight(self, expr: relax.Expr, transposed: bool = False) -> tuple[Weight, str] | None:
        """The codebook that an expression is, or its transpose, and what its layer is called."""
        key = expr, transposed
        if key not in self._weights:
            self._weights[key] = self._find(expr, transposed)
        return self._weights[key]

    def _find(self, expr: relax.Expr, transposed: bool) -> tuple[Weight, str] | None:
        known = self.constants.of(expr)
        if known is None:
            return None
        if transposed:
            known = known.reshaped(np.transpose) if isinstance(known, LookUp) else known.T
        weight = weight_in(known, self.activation)
        if weight is None:
            return None
        name = self._name(expr)
        if not isinstance(known, LookUp):
            self.found[name] = weight
        layer = name.partition(".parametrizations.")[0]
        layer = layer if layer != name else name.rpartition(".")[0] or name
        return weight, layer

    def _name(self, expr: relax.Expr) -> str:
        """What the model calls the largest constant behind an expression."""
        arrays = [
            leaf.value.numpy()
            for leaf in self.constants.leaves(expr)
            if isinstance(leaf, GenericConst)
        ]
        for array in sorted(arrays, key=lambda one: -one.size):
            if digest(array) in self.names:
                return self.names[digest(array)]
        return "codebook"


def _sentence(found: Mapping[str, Weight]) -> str:
    named = [f"{name} ({weight.bits} bits)" for name, weight in found.items()]
    more = len(named) - _MOST_NAMED
    shown = [*named[:_MOST_NAMED], *([f"{more} more"] if more > 0 else [])]
    return f"float weights that hold few values are codebooks: {', '.join(shown)}"


def _parts(weight: Weight) -> str:
    """What has a table of its own."""
    count = weight.codebook.shape[-2]
    if weight.codebook.ndim == 3:
        return f"{weight.group} inputs"
    return "row" if count == weight.rows else f"{weight.rows // count} rows"


def _is_var(expr: relax.Expr) -> bool:
    return isinstance(expr, relax.Var)


def _unspread(constants: Constants, expr: relax.Expr) -> relax.Expr:
    """A matrix behind its repetition along batch axes, or an operand that is not repeated."""
    behind = constants.behind(expr)
    if not is_operator(behind, "relax.broadcast_to"):
        return expr
    whole = behind.args[0]
    matrix = whole.ty.ndim == 2 and shape_of(whole) == shape_of(behind)[-2:]
    return whole if matrix or same_shape(whole, behind) else expr


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


def _among_constants(call: relax.Expr, constants: Constants) -> NDArray | None:
    """The largest constant behind the indices of a look-up of single floats."""
    if not is_operator(call, "relax.take", "relax.gather_elements", "relax.index_tensor"):
        return None
    table, indices = constants.of(call.args[0]), constants.behind(call.args[1])
    if not isinstance(table, np.ndarray) or table.dtype.kind != "f":
        return None
    known = len(indices.fields) if isinstance(indices, relax.Tuple) else 1
    if not is_operator(call, "relax.gather_elements") and table.ndim != known:
        return None  # rows, as of an embedding
    leaves = constants.leaves(indices)
    arrays = [leaf.value.numpy() for leaf in leaves if isinstance(leaf, GenericConst)]
    if not arrays or len(arrays) < len(leaves):
        return None
    return max(arrays, key=lambda array: array.size)
