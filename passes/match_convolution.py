"""Make convolutions by float weights operators of ours, which take in what stands around them.

Zeros put around the input by ``nn.pad`` become padding; what is added to each channel behind it
becomes the bias, and a factor of each channel, of a batch norm say, goes into the weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.passes.operators import convolution, is_float, is_operator, shape_of
from gq_tvm.passes.relax_tools.dataflow import Users, Values, users, values
from gq_tvm.passes.relax_tools.rewriter import BindingRewriter, ModulePass

#: By operator, the layouts of its input and its weight.
_LAYOUTS = {
    "relax.nn.conv1d": ("NCW", "OIW"),
    "relax.nn.conv2d": ("NCHW", "OIHW"),
    "relax.nn.conv1d_transpose": ("NCW", "IOW"),
    "relax.nn.conv2d_transpose": ("NCHW", "IOHW"),
}


@tvm.transform.module_pass(opt_level=0)
class MatchConvolution(ModulePass):
    """``nn.conv1d``, ``nn.conv2d`` and their transposes of floats become ``gq.convolution``."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        new: Values = {}
        for _gvar, function in module.functions_items():
            if isinstance(function, relax.Function):
                value_of, read_by = values(function), users(function)
                for var, call in value_of.items():
                    if _is_ours(call):
                        new |= _matched(var, call, value_of, read_by)
        return BindingRewriter(module, new).run() if new else module


def _is_ours(call: relax.Expr) -> bool:
    if not is_operator(call, *_LAYOUTS) or not all(map(is_float, [*call.args, call])):
        return False
    layouts = str(call.attrs.data_layout), str(call.attrs.kernel_layout)
    fixed = [*shape_of(call.args[1]), shape_of(call.args[0])[1]]
    return layouts == _LAYOUTS[call.op.name] and all(isinstance(one, int) for one in fixed)


def _matched(var: relax.Var, call: Any, value_of: Values, read_by: Users) -> Values:
    """The last variable of what becomes a convolution of ours, and that."""
    x, weight = call.args
    transposed = call.op.name.endswith("_transpose")
    rank = x.ty.ndim - 2
    strides, padding, dilation = (
        [int(one) for one in sizes]
        for sizes in (call.attrs.strides, call.attrs.padding, call.attrs.dilation)
    )
    left, right = padding[:rank], padding[rank:]
    if transposed:
        more = call.attrs.output_padding
        right = [one - int(other) for one, other in zip(right, more, strict=True)]
    else:
        x, left, right = _unpadded(x, left, right, value_of)
    last, weight, bias = _with_channels(var, weight, transposed, value_of, read_by)
    made = convolution(
        x,
        weight,
        bias,
        stride=strides,
        left=left,
        right=right,
        dilation=dilation,
        groups=int(call.attrs.groups),
        transposed=transposed,
    )
    return {last: made}


def _unpadded(
    x: relax.Expr, left: list[int], right: list[int], value_of: Values
) -> tuple[relax.Expr, list[int], list[int]]:
    """What a convolution of `x` [B, C, ...] reads, and the zeros at either end of each axis."""
    pad = value_of.get(x)
    if not is_operator(pad, "relax.nn.pad") or pad.attrs.pad_mode != "constant":
        return x, left, right
    widths = [int(one) for one in pad.attrs.pad_width]
    if any(widths[:4]) or min(widths) < 0 or float(pad.attrs.pad_value) != 0:
        return x, left, right
    before = [one + more for one, more in zip(left, widths[4::2], strict=True)]
    behind = [one + more for one, more in zip(right, widths[5::2], strict=True)]
    return pad.args[0], before, behind


def _with_channels(
    var: relax.Var, weight: relax.Expr, transposed: bool, value_of: Values, read_by: Users
) -> tuple[relax.Var, relax.Expr, relax.Expr]:
    """The last of the variables that are `var` times and plus something a channel; weight, bias."""
    channels = int(var.ty.shape[1])
    bias: relax.Expr | None = None
    zero = np.zeros(channels, np.float32)
    while len(read_by.get(var, ())) == 1:
        (after,) = read_by[var]
        step = value_of.get(after)
        if after.same_as(var) or not is_operator(step, "relax.add", "relax.multiply"):
            break
        one, other = step.args
        operand = other if one.same_as(var) else one
        if operand.same_as(var):
            break
        plain = _of_channels(operand, var.ty.ndim, channels)
        if is_operator(step, "relax.add"):
            if plain is None and bias is None:
                bias = _vector(operand, var.ty.ndim, channels, value_of)
            elif plain is not None and (bias is None or isinstance(bias, GenericConst)):
                bias = relax.const(plain + (zero if bias is None else bias.value.numpy()))
            else:
                break
            if bias is None:
                break
        else:
            constant = isinstance(weight, GenericConst) and not isinstance(bias, relax.Var)
            if plain is None or not constant:
                break
            weight = relax.const(_scaled(weight.value.numpy(), plain, transposed))
            if bias is not None:
                bias = relax.const(bias.value.numpy() * plain)
        var = after
    return var, weight, relax.const(zero) if bias is None else bias


def _of_channels(operand: relax.Expr, rank: int, channels: int) -> NDArray[np.float32] | None:
    """A constant [..., channels, 1, ...] as f32 [channels]."""
    if not isinstance(operand, GenericConst) or str(operand.ty.dtype) != "float32":
        return None
    array = operand.value.numpy()
    shape = (1,) * (rank - array.ndim) + array.shape
    if array.ndim > rank or shape != (1, channels, *(1,) * (rank - 2)):
        return None
    return array.reshape(channels)


def _vector(operand: relax.Expr, rank: int, channels: int, value_of: Values) -> relax.Expr | None:
    """The vector [channels] that `operand` is a reshape of, to [1, channels, 1, ...]."""
    value = value_of.get(operand)
    if not is_operator(value, "relax.reshape"):
        return None
    (x, _), shape = value.args, [1, channels, *[1] * (rank - 2)]
    return x if shape_of(x) == [channels] and shape_of(operand) == shape else None


def _scaled(weight: NDArray, factor: NDArray, transposed: bool) -> NDArray[np.float32]:
    """A weight whose outputs are `factor` times as large."""
    ones = (1,) * (weight.ndim - 2)
    if not transposed:
        return weight * factor.reshape(-1, 1, *ones)
    per_group = weight.shape[1]
    groups = len(factor) // per_group
    parts = weight.reshape(groups, -1, *weight.shape[1:]) * factor.reshape(
        groups, 1, per_group, *ones
    )
    return parts.reshape(weight.shape)
