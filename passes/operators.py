"""The codebook operators in Relax: their types, and how to write calls of them.

Registered once per process, on import. ``relax.gq.codebook_*`` mean what ``torch.ops.gq.*`` mean
(see ``gq_tvm.ops.reference``), with every bias present. ``relax.gq.packed`` is what is left once a
weight is laid out for its kernel: inputs, the kernel's operands, outputs given by its type.

Attributes all of them may carry: ``layer`` (the name users know the layer by), ``choice`` (where
``Parameters.choices`` says how the call is computed; "" before that is decided) and ``epilogue``
(what is fused behind, as ``Epilogue`` spells it; of convolutions, an activation only).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import tvm
from tvm import relax
from tvm.ir import Op, _ffi_api

from gq_tvm.schedules.epilogue import Epilogue

PACKED = "relax.gq.packed"
LINEAR = "relax.gq.codebook_linear"
LSTM = "relax.gq.codebook_lstm"
GRU = "relax.gq.codebook_gru"
CONV1D = "relax.gq.codebook_conv1d"
DEPTHWISE = "relax.gq.codebook_depthwise"
EMBEDDING = "relax.gq.codebook_embedding"
CODEBOOK_OPERATORS = (LINEAR, LSTM, GRU, CONV1D, DEPTHWISE, EMBEDDING)

# Where the indices of an operator's weights stand among its arguments (their codebooks stand behind
# them), by the *part* of the call, which is the ending of the attribute ``bits`` that speaks of it.
WEIGHTS = {LSTM: {"_ih": 3, "_hh": 5}, GRU: {"_ih": 2, "_hh": 4}} | {
    one: {"": 1} for one in (LINEAR, CONV1D, DEPTHWISE, EMBEDDING)
}

#: Operators that give the same elements in another shape.
RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")

GATES = {LSTM: 4, GRU: 3}  # of the recurrent layers
RESIDUAL = 4  # where a linear layer's residual stands among its arguments, if it has one


def codebook_linear(
    x: relax.Expr,
    indices: relax.Expr,
    codebook: relax.Expr,
    bias: relax.Expr,
    residual: relax.Expr | None = None,
    *,
    bits: int,
    activation: str,
    layer: str,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [..., K], indices u8 [N, K], codebook f32 [G, 2^bits], bias f32 [N] -> f32 [..., N].

    The epilogue may halve N (``glu``) and may add a residual, which has the shape of the result.
    """
    attrs = {"bits": bits, "activation": activation, "layer": layer, "epilogue": epilogue}
    last = [] if residual is None else [residual]
    return _call(LINEAR, [x, indices, codebook, bias, *last], attrs)


def codebook_recurrent(
    operator: str,
    inputs: Sequence[relax.Expr],
    *,
    bits_ih: int,
    bits_hh: int,
    activation: str,
    layer: str,
) -> relax.Call:
    """One layer of an LSTM or a GRU.

    Args:
        operator: `LSTM` or `GRU`.
        inputs: x f32 [B, T, I], h0 f32 [B, H], c0 f32 [B, H] (LSTM), indices_ih, codebook_ih,
            indices_hh, codebook_hh, bias f32 [4H] (LSTM), or bias_ih and bias_hh f32 [3H] (GRU).
        bits_ih: Bits of the input weight.
        bits_hh: Bits of the recurrent weight.
        activation: one of ``ops.checks.ACTIVATIONS``.
        layer: Name of the layer.

    Returns:
        A tuple: y f32 [B, T, H], h f32 [B, H], c f32 [B, H] (LSTM).
    """
    attrs = {"bits_ih": bits_ih, "bits_hh": bits_hh, "activation": activation, "layer": layer}
    return _call(operator, inputs, attrs)


def codebook_conv1d(
    x: relax.Expr,
    indices: relax.Expr,
    codebook: relax.Expr,
    bias: relax.Expr,
    *,
    bits: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
    layer: str,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [B, C, T], indices u8 [N, C / groups, k], bias f32 [N] -> f32 [B, N, T']."""
    attrs: dict[str, Any] = {"bits": bits, "stride": stride, "padding": padding}
    attrs |= {"dilation": dilation, "groups": groups, "activation": activation}
    attrs |= {"layer": layer, "epilogue": epilogue}
    return _call(CONV1D, [x, indices, codebook, bias], attrs)


def codebook_depthwise(
    x: relax.Expr,
    indices: relax.Expr,
    codebook: relax.Expr,
    bias: relax.Expr,
    *,
    bits: int,
    stride: int,
    left: int,
    right: int,
    dilation: int,
    layer: str,
    epilogue: str = "",
) -> relax.Call:
    """x f32 [B, T, C], indices u8 [C, 1, k], bias f32 [C] -> f32 [B, T', C].

    ``left`` and ``right`` are the zero frames at either end; arithmetic is fp32.
    """
    attrs: dict[str, Any] = {"bits": bits, "stride": stride, "left": left, "right": right}
    attrs |= {"dilation": dilation, "layer": layer, "epilogue": epilogue}
    return _call(DEPTHWISE, [x, indices, codebook, bias], attrs)


def codebook_embedding(
    ids: relax.Expr, indices: relax.Expr, codebook: relax.Expr, *, bits: int, layer: str
) -> relax.Call:
    """ids i64 [...], indices u8 [V, D] -> f32 [..., D]."""
    return _call(EMBEDDING, [ids, indices, codebook], {"bits": bits, "layer": layer})


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
    return int(value) if isinstance(value, int | tvm.tirx.IntImm) else value


def _linear_type(call: relax.Call, _: Any) -> relax.Type:
    x, indices = call.args[0], call.args[1]
    outputs = Epilogue.parse(attributes(call)["epilogue"]).outputs(shape_of(indices)[0])
    return relax.TensorType([*shape_of(x)[:-1], outputs], "float32")


def _recurrent_type(call: relax.Call, _: Any) -> relax.Type:
    batch, steps, _width = shape_of(call.args[0])
    hidden = shape_of(call.args[1])[1]
    states = [relax.TensorType([batch, hidden], "float32")] * (WEIGHTS[call.op.name]["_ih"] - 1)
    return relax.TupleType([relax.TensorType([batch, steps, hidden], "float32"), *states])


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


def _embedding_type(call: relax.Call, _: Any) -> relax.Type:
    ids, indices = call.args[0], call.args[1]
    return relax.TensorType([*shape_of(ids), shape_of(indices)[1]], "float32")


def _packed_type(call: relax.Call, _: Any) -> relax.Type:
    return call.ty_args[0]


def _register() -> None:
    linear = ("x", "indices", "codebook", "bias")
    weights = ("indices_ih", "codebook_ih", "indices_hh", "codebook_hh")
    for name, arguments, infer in (
        (LINEAR, None, _linear_type),  # with or without a residual
        (LSTM, ("x", "h0", "c0", *weights, "bias"), _recurrent_type),
        (GRU, ("x", "h0", *weights, "bias_ih", "bias_hh"), _recurrent_type),
        (CONV1D, linear, _conv1d_type),
        (DEPTHWISE, linear, _depthwise_type),
        (EMBEDDING, ("ids", "indices", "codebook"), _embedding_type),
        (PACKED, None, _packed_type),
    ):
        _ffi_api.RegisterOp(name, "gq-tvm: a layer whose weight lives in a codebook.")
        op = Op.get(name)
        op.set_num_inputs(-1 if arguments is None else len(arguments))
        for argument in arguments or ():
            op.add_argument(argument, "Tensor", "")
        tvm.ir.register_op_attr(name, "FInferType", infer)
        tvm.ir.register_op_attr(name, "FPurity", True)


_register()
