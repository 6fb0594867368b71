"""Give float operators vector kernels of our own where TVM has none.

Without a schedule TVM makes plain loops, which LLVM does not turn into vector code where a sum or
an exponential is in them. A rule looks at a call and returns the kernel's call, or None; what every
rule declines is left to TVM: other dtypes, other axes, batches that are broadcast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.passes.convolution_windows import windows_of
from gq_tvm.passes.operators import (
    CONVOLUTION,
    UNFOLD,
    attributes,
    axes_of,
    equal_sizes,
    is_float,
    is_operator,
    known,
    shape_of,
    volume,
)
from gq_tvm.passes.relax_tools.kernels import Kernels
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass
from gq_tvm.schedules.cpu.float_ops import lanes_of, registers_of
from gq_tvm.schedules.cpu.float_ops.activation import activation
from gq_tvm.schedules.cpu.float_ops.attention import Attention, attention
from gq_tvm.schedules.cpu.float_ops.convolution import Convolution, convolution
from gq_tvm.schedules.cpu.float_ops.layer_norm import layer_norm
from gq_tvm.schedules.cpu.float_ops.matmul import matmul
from gq_tvm.schedules.cpu.float_ops.softmax import softmax
from gq_tvm.schedules.cpu.float_ops.transposition import transpose
from gq_tvm.schedules.cpu.float_ops.unfold import unfold
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.windows import Axis
from gq_tvm.targets import Target

_FEWEST = 4  # rows or columns of a matrix that is worth being turned in squares
_ACTIVATIONS = {"relax.nn.silu": "silu", "relax.nn.gelu": "gelu", "relax.tanh": "tanh"}


@tvm.transform.module_pass(opt_level=0)
class LowerFloat(ModulePass):
    """Layer norm, softmax, attention, products, convolutions and others call kernels.

    TVM's own tanh, ``(1 - e^-2x) / (1 + e^-2x)``, is off by 6e-8 wherever it is near 0.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, _Rules(self.target).lower).run()


class _Rules:
    """The rules, tried in their order."""

    def __init__(self, target: Target) -> None:
        self.lanes, self.registers = lanes_of(target), registers_of(target)
        self.kernels = Kernels()
        self.rules = (
            self._layer_norm,
            self._softmax,
            self._attention,
            self._matmul,
            self._convolution,
            self._unfold,
            self._transpose,
            self._activation,
        )

    def lower(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        """The call of a kernel that computes `call`, or None."""
        if not all(is_float(arg) for arg in call.args):
            return None
        for rule in self.rules:
            lowered = rule(rewriter, call)
            if lowered is not None:
                return lowered
        return None

    def _layer_norm(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, "relax.nn.layer_norm"):
            return None
        x, gamma, beta = call.args
        axes = sorted(int(axis) % x.ty.ndim for axis in call.attrs.axes)
        shape = shape_of(x)
        width = volume(shape[axes[0] :])
        plain = call.attrs.center and call.attrs.scale and isinstance(width, int)
        if not plain or axes != list(range(axes[0], x.ty.ndim)):
            return None
        rows = volume(shape[: axes[0]])
        epsilon = float(call.attrs.epsilon)
        kernel = self.kernels.get(
            rewriter,
            ("layer_norm", known(rows), width, epsilon),
            lambda: layer_norm(self.lanes, known(rows), width, epsilon),
        )
        shapes = [[rows, width], [width], [width]]
        return _call(rewriter, kernel, call, [x, gamma, beta], shapes, [rows, width])

    def _softmax(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, "relax.nn.softmax"):
            return None
        (x,) = call.args
        if int(call.attrs.axis) % x.ty.ndim != x.ty.ndim - 1:
            return None
        *leading, width = shape_of(x)
        rows = volume(leading)
        kernel = self.kernels.get(
            rewriter,
            ("softmax", known(rows), known(width)),
            lambda: softmax(self.lanes, known(rows), known(width)),
        )
        return _call(rewriter, kernel, call, [x], [[rows, width]], [rows, width])

    def _attention(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, "relax.nn.attention", "relax.nn.attention_bias"):
            return None
        query, key, value, *mask = call.args
        batch, frames, heads, width = shape_of(query)
        keys, values = shape_of(key)[1], shape_of(value)[3]
        causal = str(call.attrs.causal_mask) if call.attrs.causal_mask is not None else None
        there = _leading_axes(shape_of(mask[0]), [batch, heads, frames, keys]) if mask else None
        fixed = all(isinstance(size, int) for size in (heads, width, values))
        if not fixed or causal not in (None, "TopLeft") or (mask and there is None):
            return None
        if call.attrs.window_size is not None or shape_of(key)[2] != heads:
            return None
        scale = call.attrs.scale
        of = Attention(
            known(batch),
            known(frames),
            known(keys),
            heads,
            width,
            values,
            float(scale.value) if scale is not None else width**-0.5,
            causal is not None,
            there,
        )
        kernel = self.kernels.get(
            rewriter, ("attention", of), lambda: attention(self.lanes, self.registers, of)
        )
        shapes = [shape_of(arg) for arg in call.args]
        return _call(rewriter, kernel, call, list(call.args), shapes, shape_of(call))

    def _matmul(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, "relax.matmul"):
            return None
        a, b = call.args
        left, right = shape_of(a), shape_of(b)
        if min(len(left), len(right)) < 2 or str(call.ty.dtype) != "float32":
            return None
        if len(right) == 2:  # one matrix for all rows of the batch
            shapes = [[1, volume(left[:-1]), left[-1]], [1, *right]]
        elif len(left) == len(right) and all(map(equal_sizes, left[:-2], right[:-2])):
            shapes = [[volume(one[:-2]), *one[-2:]] for one in (left, right)]
        else:
            return None
        (batch, m, k), n = shapes[0], right[-1]
        sizes = tuple(known(size) for size in (batch, m, n, k))
        kernel = self.kernels.get(
            rewriter, ("matmul", *sizes), lambda: matmul(self.lanes, self.registers, *sizes)
        )
        return _call(rewriter, kernel, call, [a, b], shapes, [batch, m, n])

    def _convolution(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, CONVOLUTION):
            return None
        at = attributes(call)
        x, weight, out = (shape_of(one) for one in (call.args[0], call.args[1], call))
        axes = [
            Axis(known(size), known(size_out), taps, one["stride"], one["dilation"], one["left"])
            for size, size_out, taps, one in zip(
                x[2:], out[2:], weight[2:], axes_of(call), strict=True
            )
        ]
        missing = [1] * (2 - len(axes))  # the axis that a convolution of one has not
        rows, columns = [Axis(1, 1) for _ in missing] + axes
        of = Convolution(
            known(x[0]),
            x[1],
            out[1],
            at["groups"],
            rows,
            columns,
            bool(at["transposed"]),
            Epilogue.parse(at["epilogue"]).activation,
        )
        kernel = self.kernels.get(
            rewriter, ("convolution", of), lambda: convolution(self.lanes, self.registers, of)
        )
        shapes = [[*shape[:2], *missing, *shape[2:]] for shape in (x, weight, out)]
        arguments = [shapes[0], shapes[1], [out[1]]]
        return _call(rewriter, kernel, call, list(call.args), arguments, shapes[2])

    def _unfold(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, UNFOLD):
            return None
        of, shape, out = windows_of(call)
        kernel = self.kernels.get(rewriter, ("unfold", of), lambda: unfold(self.lanes, of))
        return _call(rewriter, kernel, call, list(call.args), [shape], out)

    def _transpose(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        if not is_operator(call, "relax.permute_dims") or isinstance(call.args[0], GenericConst):
            return None
        shape, axes = shape_of(call.args[0]), call.attrs.axes
        order = [int(axis) % len(shape) for axis in axes or reversed(range(len(shape)))]
        sizes = _as_transposition(shape, order)
        if sizes is None or any(isinstance(one, int) and one < _FEWEST for one in sizes[1:]):
            return None
        batch, rows, columns = sizes
        kernel = self.kernels.get(
            rewriter,
            ("transpose", *map(known, sizes)),
            lambda: transpose(self.lanes, *map(known, sizes)),
        )
        return _call(rewriter, kernel, call, [call.args[0]], [sizes], [batch, columns, rows])

    def _activation(self, rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
        name = _ACTIVATIONS.get(str(getattr(call.op, "name", "")))
        if name is None and not _is_silu(rewriter, call):
            return None
        x, name = call.args[0], name or "silu"
        size = volume(shape_of(x))
        kernel = self.kernels.get(
            rewriter,
            (name, known(size)),
            lambda: activation(self.lanes, name, known(size)),
        )
        return _call(rewriter, kernel, call, [x], [[size]], [size])


def _is_silu(rewriter: CallRewriter, call: relax.Call) -> bool:
    """Whether a call is ``x * sigmoid(x)``."""
    if not is_operator(call, "relax.multiply"):
        return False
    x, gate = call.args
    value = rewriter.builder_.lookup_binding(gate) if isinstance(gate, relax.Var) else None
    return is_operator(value, "relax.sigmoid") and value.args[0].same_as(x)


def _as_transposition(shape: list[Any], order: list[int]) -> list[Any] | None:
    """Batch, rows and columns, if a permutation of axes turns the matrices of a batch round."""
    order = [axis for axis in order if not equal_sizes(shape[axis], 1)]
    there = sorted(order)
    same = next((i for i, pair in enumerate(zip(order, there, strict=True)) if len({*pair}) > 1), 0)
    for split in range(same + 1, len(order)):
        if order[same:] == there[split:] + there[same:split]:
            parts = there[:same], there[same:split], there[split:]
            return [volume([shape[axis] for axis in part]) for part in parts]
    return None


def _call(
    rewriter: CallRewriter,
    kernel: Any,
    call: relax.Call,
    inputs: Sequence[relax.Expr],
    shapes: Sequence[Sequence[Any]],
    out: Sequence[Any],
) -> relax.Expr:
    """Call `kernel` with `inputs` reshaped to `shapes`; what it gives has the shape of `call`."""
    arguments = [_reshaped(rewriter, x, shape) for x, shape in zip(inputs, shapes, strict=True)]
    y = rewriter.emit(relax.call_tir(kernel, arguments, relax.TensorType(list(out), "float32")))
    return _reshaped(rewriter, y, shape_of(call))


def _reshaped(rewriter: CallRewriter, x: relax.Expr, shape: Sequence[Any]) -> relax.Expr:
    same = len(shape) == x.ty.ndim and all(map(equal_sizes, shape_of(x), shape))
    return x if same else rewriter.emit(relax.op.reshape(x, list(shape)))


def _leading_axes(mask: list[Any], full: list[Any]) -> tuple[bool, bool, bool] | None:
    """Which of the axes before the last a mask has; None if it has none of the known forms."""
    if len(mask) != 4 or not equal_sizes(mask[3], full[3]):
        return None
    there = []
    for size, whole in zip(mask[:3], full[:3], strict=True):
        if not equal_sizes(size, whole) and size != 1:
            return None
        there.append(equal_sizes(size, whole))
    return (there[0], there[1], there[2])
