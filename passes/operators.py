"""The operators of ours in Relax: their types, and how to write calls of them.

Registered once per process, on import. ``relax.gq.codebook_*`` mean what ``torch.ops.gq.*`` mean
(see ``gq_tvm.ops.reference``), with every bias present. ``relax.gq.packed`` is what is left once a
weight is laid out for its kernel: inputs, the kernel's operands, outputs given by its type.

A weight is six arguments, the arrays of ``gq_tvm.ops.weight.Weight``: indices, codebook, scale,
zero, and the positions and values of outliers; the shape of the last three is [0] where there are
none.

Attributes all of them may carry: ``layer`` (the name users know the layer by), ``choice`` (where
``Parameters.choices`` says how the call is computed; "" before that is decided) and ``epilogue``
(what is fused behind, as ``Epilogue`` spells it; of convolutions, an activation only).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, Op, _ffi_api

from gq_tvm.ops.checks import bits_of, group_size, groups_of, kept_as
from gq_tvm.ops.checks_recurrent import CELLS, LAYERS, Layer
from gq_tvm.ops.weight import Outliers, Weight
from gq_tvm.schedules.epilogue import Epilogue

PACKED = "relax.gq.packed"
LINEAR = "relax.gq.codebook_linear"
CONV1D = "relax.gq.codebook_conv1d"
CONV2D = "relax.gq.codebook_conv2d"
DEPTHWISE = "relax.gq.codebook_depthwise"
EMBEDDING = "relax.gq.codebook_embedding"
RECURRENT = "relax.gq.recurrent"  # in float
#: A convolution by a weight of floats, its bias added: `convolution`.
CONVOLUTION = "relax.gq.convolution"
#: What a convolution multiplies: `unfold`.
UNFOLD = "relax.gq.unfold"

#: The recurrent layers with weights in codebooks.
RECURRENT_LAYERS: dict[str, Layer] = {
    f"relax.gq.codebook_{name}": kind for name, kind in LAYERS.items()
}
_ARRAYS = ("indices", "codebook", "scale", "zero", "positions", "values")

# Where an operator's weights begin among its arguments, by the *part* of the call they are of.
WEIGHTS = {
    name: {part: 1 + len(kind.states) + n * len(_ARRAYS) for n, part in enumerate(kind.parts)}
    for name, kind in RECURRENT_LAYERS.items()
} | {one: {"": 1} for one in (LINEAR, CONV1D, CONV2D, DEPTHWISE, EMBEDDING)}

#: The last arrays of a weight that has neither zero points nor outliers.
NO_ZERO_OR_OUTLIERS = np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)

#: Operators that give the same elements in another shape.
RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")


def behind_weights(call: relax.Call) -> int:
    """Where the arguments behind the weights begin: biases, then a residual."""
    return max(WEIGHTS[call.op.name].values()) + len(_ARRAYS)


def weight_arguments(call: relax.Call, part: str = "") -> list[relax.Expr]:
    """The arguments that are the weight of a part of `WEIGHTS`."""
    place = WEIGHTS[call.op.name][part]
    return list(call.args[place : place + len(_ARRAYS)])


def weight_of(call: relax.Call, part: str = "") -> Weight | None:
    """The weight of a part of `WEIGHTS`, or None if it is not all constants."""
    arguments = weight_arguments(call, part)
    if not all(isinstance(one, GenericConst) for one in arguments):
        return None
    indices, codebook, scale, zero, *outliers = (one.value.numpy() for one in arguments)
    kept = Outliers(*outliers) if outliers[0].size else None
    return Weight(indices, codebook, scale, zero if zero.size else None, kept)


def weight_constants(weight: Weight) -> list[relax.Expr]:
    """A weight as arguments."""
    zero, *outliers = NO_ZERO_OR_OUTLIERS
    arrays = weight.indices, weight.codebook, weight.scale
    last = zero if weight.zero is None else weight.zero, *(weight.outliers or outliers)
    return [relax.const(one) for one in (*arrays, *last)]


def with_weight(call: relax.Call, weight: Weight, part: str = "") -> list[relax.Expr]:
    """The arguments of a call with another weight of the same indices."""
    place = WEIGHTS[call.op.name][part]
    args = list(call.args)
    args[place + 1 : place + len(_ARRAYS)] = weight_constants(weight)[1:]
    return args


def form_of(call: relax.Call, part: str = "") -> dict[str, Any]:
    """What a kernel must know of a weight beside its shape.

    Returns:
        ``bits`` of an index; ``group``, the inputs of a group, or 0; ``zero``, whether there are
        zero points; ``tables``, how many share out the rows, or 0 where each group has its own;
        ``scale_type`` and ``zero_type``, the dtypes in which kernels read these;
        ``outliers``, the dtype of what outliers add, "" where there are none.
    """
    indices, codebook, scale, zero, positions, values = weight_arguments(call, part)
    tables, groups = shape_of(codebook), groups_of(codebook.ty, scale.ty)
    return {
        "bits": bits_of(codebook.ty),
        "group": group_size(volume(shape_of(indices)[1:]), groups),
        "zero": shape_of(zero) != [0],
        "tables": 0 if len(tables) == 3 and groups > 1 else tables[-2],
        "scale_type": kept_as(scale.ty, groups),
        "zero_type": kept_as(zero.ty, groups),
        "outliers": "" if shape_of(positions) == [0] else str(values.ty.dtype),
    }


def codebook_linear(
    x: relax.Expr,
    weight: Sequence[relax.Expr],
    bias: relax.Expr,
    residual: relax.Expr | None = None,
    *,
    activation: str,
    layer: str,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [..., K], a weight [N, K], bias f32 [N] -> f32 [..., N].

    The epilogue may halve N (``glu``) and may add a residual, which has the shape of the result.
    """
    attrs = {"activation": activation, "layer": layer, "epilogue": epilogue}
    last = [] if residual is None else [residual]
    return _call(LINEAR, [x, *weight, bias, *last], attrs)


def codebook_recurrent(
    operator: str,
    inputs: Sequence[relax.Expr],
    lengths: relax.Expr | None = None,
    *,
    reverse: bool,
    activation: str,
    layer: str,
) -> relax.Call:
    """One recurrent layer in one direction; see ``ops.reference_recurrent.codebook_recurrent``.

    Args:
        operator: One of `RECURRENT_LAYERS`.
        inputs: x f32 [B, T, I], the parts of the state, the weights and the biases.
        lengths: i64 [B], or None for all frames.
        reverse: Whether the last frame comes first.
        activation: one of ``ops.checks.ACTIVATIONS``.
        layer: Name of the layer.

    Returns:
        A tuple: y f32 [B, T, P], and the parts of the last state.
    """
    attrs = {"activation": activation, "layer": layer, "reverse": int(reverse)}
    return _call(operator, [*inputs, *([] if lengths is None else [lengths])], attrs)


def recurrent(
    cell: str,
    inputs: Sequence[relax.Expr],
    projection: relax.Expr | None = None,
    lengths: relax.Expr | None = None,
    *,
    reverse: bool,
    clip: float,
    functions: str,
    layer: str,
) -> relax.Call:
    """One recurrent layer in one direction, in float; see ``ops.reference_recurrent.recurrent``.

    Args:
        cell: one of ``ops.checks_recurrent.CELLS``.
        inputs: x f32 [B, T, I], the parts of the state, both weights and both biases.
        projection: f32 [P, H] or None.
        lengths: i64 [B] or None.
        reverse: See there.
        clip: The same.
        functions: The same.
        layer: Name of the layer.

    Returns:
        A tuple: y f32 [B, T, P], and the parts of the last state.
    """
    attrs: dict[str, Any] = {"cell": cell, "reverse": int(reverse), "clip": float(clip)}
    attrs |= {"functions": functions, "layer": layer, "projection": int(projection is not None)}
    more = [one for one in (projection, lengths) if one is not None]
    return _call(RECURRENT, [*inputs, *more], attrs)


def codebook_conv1d(
    x: relax.Expr,
    weight: Sequence[relax.Expr],
    bias: relax.Expr,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
    layer: str,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [B, C, T], a weight [N, C / groups, k], bias f32 [N] -> f32 [B, N, T']."""
    attrs: dict[str, Any] = {"stride": stride, "padding": padding}
    attrs |= {"dilation": dilation, "groups": groups, "activation": activation}
    attrs |= {"layer": layer, "epilogue": epilogue}
    return _call(CONV1D, [x, *weight, bias], attrs)


def codebook_conv2d(
    x: relax.Expr,
    weight: Sequence[relax.Expr],
    bias: relax.Expr,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
    layer: str,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [B, C, H, W], a weight [N, C, h, w], bias f32 [N] -> f32 [B, N, H', W']."""
    attrs: dict[str, Any] = {"activation": activation, "layer": layer, "epilogue": epilogue}
    attrs |= _of_axes(stride=stride, left=padding, right=padding, dilation=dilation)
    return _call(CONV2D, [x, *weight, bias], attrs)


def codebook_depthwise(
    x: relax.Expr,
    weight: Sequence[relax.Expr],
    bias: relax.Expr,
    *,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    layer: str,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [B, T, C], a weight [C, 1, k], bias f32 [C] -> f32 [B, T', C].

    ``left`` and ``right`` are the zero frames at either end; arithmetic is fp32.
    """
    attrs: dict[str, Any] = {"stride": stride, "left": left, "right": right}
    attrs |= {"dilation": dilation, "layer": layer, "epilogue": epilogue}
    return _call(DEPTHWISE, [x, *weight, bias], attrs)


def codebook_embedding(ids: relax.Expr, weight: Sequence[relax.Expr], *, layer: str) -> relax.Call:
    """ids i64 [...], a weight [V, D] -> f32 [..., D]."""
    return _call(EMBEDDING, [ids, *weight], {"layer": layer})


def convolution(
    x: relax.Expr,
    weight: relax.Expr,
    bias: relax.Expr,
    *,
    stride: Sequence[int],
    left: Sequence[int],
    right: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [B, C, ...], weight f32 [N, C / groups, ...], bias f32 [N] -> f32 [B, N, ...].

    Behind B and C are one axis or two, for each of which there is a stride, the zeros at either end
    and a dilation. Transposed, the weight is [C, N / groups, ...] and ``left`` and ``right`` are
    the outputs cut off at either end.
    """
    attrs: dict[str, Any] = {"groups": groups, "transposed": int(transposed), "epilogue": epilogue}
    attrs |= _of_axes(stride=stride, left=left, right=right, dilation=dilation)
    return _call(CONVOLUTION, [x, weight, bias], attrs)


def unfold(
    x: relax.Expr,
    *,
    first: int,
    channels: int,
    taps: Sequence[int],
    stride: Sequence[int],
    left: Sequence[int],
    right: Sequence[int],
    dilation: Sequence[int],
) -> relax.Call:
    """x f32 [B, C, ...] -> f32 [B, ..., K], what is read of the channels from ``first`` on.

    Behind B and C are one axis or two, for each of which there are taps, a stride, the zeros at
    either end and a dilation. K are the taps of the first channel, then those of the next.
    """
    attrs: dict[str, Any] = {"first": first, "channels": channels}
    attrs |= _of_axes(taps=taps, stride=stride, left=left, right=right, dilation=dilation)
    return _call(UNFOLD, [x], attrs)


def _of_axes(**sizes: Sequence[int]) -> dict[str, str]:
    """Attributes that are of each axis, as `axes_of` reads them."""
    return {key: ",".join(str(int(one)) for one in each) for key, each in sizes.items()}


def axes_of(call: relax.Call) -> list[dict[str, int]]:
    """What a `convolution` or the like has for each axis: stride, left, and so on."""
    at = attributes(call)
    names = [one for one in ("taps", "stride", "left", "right", "dilation") if one in at]
    columns = [map(int, at[name].split(",")) for name in names]
    return [dict(zip(names, one, strict=True)) for one in zip(*columns, strict=True)]


def packed(
    arguments: Sequence[relax.Expr], out_type: relax.Type, attrs: dict[str, Any]
) -> relax.Call:
    """A kernel call with its operands in place; ``attrs`` say of which operator and kernel."""
    return relax.Call(
        Op.get(PACKED), list(arguments), tvm.ir.make_node("ir.DictAttrs", **attrs), [out_type]
    )


def with_attrs(call: relax.Call, **changes: Any) -> relax.Call:
    """The same call with some attributes changed."""
    return _call(call.op.name, call.args, {**attributes(call), **changes})


def with_args(call: relax.Call, args: Sequence[relax.Expr], **changes: Any) -> relax.Call:
    """A codebook operator's call with other arguments, and some attributes changed."""
    return _call(call.op.name, args, {**attributes(call), **changes})


def attributes(call: relax.Call) -> dict[str, Any]:
    """The attributes of a codebook operator's call, as plain Python values."""
    return {str(key): _plain(value) for key, value in call.attrs.items()}


def part_name(layer: str, part: str) -> str:
    """What the weight of `layer` behind the ending `part` of `WEIGHTS` is called."""
    return layer + part.replace("_", ".")


def is_operator(expr: Any, *names: str) -> TypeGuard[Any]:
    """Whether `expr` is a call of one of the operators `names`."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, Op) and expr.op.name in names


def same_shape(a: relax.Expr, b: relax.Expr) -> bool:
    """Whether two tensors have the same shape for sure."""
    left, right = shape_of(a), shape_of(b)
    return len(left) == len(right) and all(map(equal_sizes, left, right))


def equal_sizes(a: Any, b: Any) -> bool:
    """Whether two sizes are equal for sure."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(tvm.sym.Analyzer().can_prove_equal(a, b))


def shape_of(expr: relax.Expr) -> list[Any]:
    """The sizes of a tensor expression, ints where they are known."""
    return [int(s) if isinstance(s, int | tvm.tirx.IntImm) else s for s in expr.ty.shape]


def known(size: Any) -> int | None:
    """A size a kernel is made for; None if it is known only at run time."""
    return size if isinstance(size, int) else None


def is_float(expr: relax.Expr) -> bool:
    """Whether `expr` is a float32 tensor whose sizes have names at least."""
    ty = expr.ty
    return isinstance(ty, relax.TensorType) and ty.shape is not None and str(ty.dtype) == "float32"


def volume(sizes: Sequence[Any]) -> Any:
    """The product of sizes, an int if all are."""
    product: Any = 1
    for size in sizes:
        product = product * size
    return simplified(product)


def simplified(size: Any) -> Any:
    """The same size in a simpler form, an int if it is one."""
    simple = size if isinstance(size, int) else tvm.sym.Analyzer().simplify(size)
    return int(simple) if isinstance(simple, tvm.tirx.IntImm) else simple


def conv1d_frames(frames: Any, taps: int, stride: int, padding: int, dilation: int) -> Any:
    """Output frames of a convolution over `frames` frames, `padding` of zeros in all beside."""
    return simplified((frames + (padding - dilation * (taps - 1) - 1)) // stride + 1)


def _call(name: str, args: Sequence[relax.Expr], attrs: dict[str, Any]) -> relax.Call:
    return relax.Call(Op.get(name), list(args), tvm.ir.make_node("ir.DictAttrs", **attrs))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float | tvm.tirx.FloatImm):
        return float(value)
    return int(value) if isinstance(value, int | tvm.tirx.IntImm) else value


def _linear_type(call: relax.Call, _: Any) -> relax.Type:
    x, indices = call.args[0], call.args[1]
    outputs = Epilogue.parse(attributes(call)["epilogue"]).outputs(shape_of(indices)[0])
    return relax.TensorType([*shape_of(x)[:-1], outputs], "float32")


def _recurrent_type(call: relax.Call, _: Any) -> relax.Type:
    batch, steps, _width = shape_of(call.args[0])
    if call.op.name == RECURRENT:
        parts = CELLS[attributes(call)["cell"]].states
    else:
        parts = len(RECURRENT_LAYERS[call.op.name].states)
    sizes = [shape_of(one)[1] for one in call.args[1 : 1 + parts]]
    states = [relax.TensorType([batch, size], "float32") for size in sizes]
    return relax.TupleType([relax.TensorType([batch, steps, sizes[0]], "float32"), *states])


def _conv1d_type(call: relax.Call, _: Any) -> relax.Type:
    batch, _channels, frames = shape_of(call.args[0])
    rows, _group_channels, taps = shape_of(call.args[1])
    at = attributes(call)
    frames = conv1d_frames(frames, taps, at["stride"], 2 * at["padding"], at["dilation"])
    return relax.TensorType([batch, rows, frames], "float32")


def _depthwise_type(call: relax.Call, _: Any) -> relax.Type:
    batch, frames, channels = shape_of(call.args[0])
    taps, at = shape_of(call.args[1])[2], attributes(call)
    padding = at["left"] + at["right"]
    frames = conv1d_frames(frames, taps, at["stride"], padding, at["dilation"])
    return relax.TensorType([batch, frames, channels], "float32")


def _convolution_type(call: relax.Call, _: Any) -> relax.Type:
    (batch, _channels, *sizes), weight, at = *map(shape_of, call.args[:2]), attributes(call)
    outputs = weight[1] * at["groups"] if at["transposed"] else weight[0]
    out = []
    for size, taps, axis in zip(sizes, weight[2:], axes_of(call), strict=True):
        padding = axis["left"] + axis["right"]
        if at["transposed"]:
            reach = axis["dilation"] * (taps - 1) + 1
            out.append(simplified((size - 1) * axis["stride"] + (reach - padding)))
        else:
            out.append(conv1d_frames(size, taps, axis["stride"], padding, axis["dilation"]))
    return relax.TensorType([batch, outputs, *out], "float32")


def _unfold_type(call: relax.Call, _: Any) -> relax.Type:
    (batch, _channels, *sizes), width = shape_of(call.args[0]), attributes(call)["channels"]
    out = []
    for size, one in zip(sizes, axes_of(call), strict=True):
        padding, width = one["left"] + one["right"], width * one["taps"]
        out.append(conv1d_frames(size, one["taps"], one["stride"], padding, one["dilation"]))
    return relax.TensorType([batch, *out, width], "float32")


def _conv2d_type(call: relax.Call, _: Any) -> relax.Type:
    (batch, _channels, *sizes), (rows, _, *taps) = map(shape_of, call.args[:2])
    out = [
        conv1d_frames(size, count, one["stride"], one["left"] + one["right"], one["dilation"])
        for size, count, one in zip(sizes, taps, axes_of(call), strict=True)
    ]
    return relax.TensorType([batch, rows, *out], "float32")


def _embedding_type(call: relax.Call, _: Any) -> relax.Type:
    ids, indices = call.args[0], call.args[1]
    return relax.TensorType([*shape_of(ids), shape_of(indices)[1]], "float32")


def _packed_type(call: relax.Call, _: Any) -> relax.Type:
    return call.ty_args[0]


def _register() -> None:
    linear = ("x", *_ARRAYS, "bias")
    for name, arguments, infer in (
        (LINEAR, None, _linear_type),  # with or without a residual
        *((name, None, _recurrent_type) for name in RECURRENT_LAYERS),  # with or without lengths
        (RECURRENT, None, _recurrent_type),
        (CONV1D, linear, _conv1d_type),
        (CONV2D, linear, _conv2d_type),
        (DEPTHWISE, linear, _depthwise_type),
        (EMBEDDING, ("ids", *_ARRAYS), _embedding_type),
        (CONVOLUTION, ("x", "weight", "bias"), _convolution_type),
        (UNFOLD, ("x",), _unfold_type),
        (PACKED, None, _packed_type),
    ):
        _ffi_api.RegisterOp(name, "gq-tvm: a layer.")
        op = Op.get(name)
        op.set_num_inputs(-1 if arguments is None else len(arguments))
        for argument in arguments or ():
            op.add_argument(argument, "Tensor", "")
        tvm.ir.register_op_attr(name, "FInferType", infer)
        tvm.ir.register_op_attr(name, "FPurity", True)


_register()
