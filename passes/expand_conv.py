"""Make a convolution a layer over frames of channels, between two transpositions.

One in one group becomes a matrix product over unfolded frames: each output frame is a row of C * k
inputs, channel major and tap minor as the weight is laid out; one along two axes likewise, a row
for each place of the map. One in several groups becomes a product a group, and one in as many as
channels ``codebook_depthwise``. Zero frames put in front or behind by ``nn.pad`` become part of
either. Groups of few outputs stay where rows are floats: most of a product kernel's vectors would
be empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.ops.checks import FEWEST_OF_A_GROUP
from gq_tvm.passes.operators import (
    CONV1D,
    CONV2D,
    attributes,
    axes_of,
    codebook_depthwise,
    codebook_linear,
    is_operator,
    shape_of,
    unfold,
    weight_arguments,
    weight_constants,
    weight_of,
)
from gq_tvm.passes.relax_tools.rewriter import CallRewriter, ModulePass

_FRAMES_LAST = [0, 2, 1]


@tvm.transform.module_pass(opt_level=0)
class ExpandConv(ModulePass):
    """Codebook convolutions become codebook_linear or codebook_depthwise, channels last."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""

        def expand(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
            if is_operator(call, CONV2D):
                return _expand_2d(rewriter, call)
            return _expand(rewriter, call) if is_operator(call, CONV1D) else None

        return CallRewriter(module, expand).run()


def _expand_2d(rewriter: CallRewriter, call: relax.Call) -> relax.Expr:
    at, axes = attributes(call), axes_of(call)
    x, weight, bias = call.args[0], weight_arguments(call), call.args[-1]
    rows, channels, *taps = shape_of(weight[0])
    if not isinstance(weight[0], GenericConst):
        raise _computed(at["layer"])
    plain = all(one["stride"] == 1 and not one["left"] + one["right"] for one in axes)
    if plain and taps == [1, 1]:
        unfolded = rewriter.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))
    else:
        columns = {key: [one[key] for one in axes] for key in axes[0]}
        windows = unfold(x, first=0, channels=channels, taps=taps, **columns)
        unfolded = rewriter.emit(windows)
    flat = np.ascontiguousarray(weight[0].value.numpy()).reshape(rows, -1)
    y = codebook_linear(
        unfolded,
        [relax.const(flat), *weight[1:]],
        bias,
        **{key: at[key] for key in ("activation", "layer", "epilogue")},
    )
    return relax.op.permute_dims(rewriter.emit(y), [0, 3, 1, 2])


def _computed(layer: str) -> Error:
    return Error(f"layer {layer}: its weight is computed while the model runs")


def _expand(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
    at = attributes(call)
    x, weight, bias = call.args[0], weight_arguments(call), call.args[-1]
    rows, group_channels, taps = shape_of(weight[0])
    depthwise = group_channels == 1 and rows == at["groups"] > 1
    few = at["activation"] == "fp32" and rows < FEWEST_OF_A_GROUP * at["groups"]
    if at["groups"] != 1 and not depthwise and few:
        return None
    if not isinstance(weight[0], GenericConst):
        raise _computed(at["layer"])
    x, left, right = _unpadded(rewriter, x, at["padding"])
    if depthwise:
        y = codebook_depthwise(
            rewriter.emit(relax.op.permute_dims(x, _FRAMES_LAST)),
            weight,
            bias,
            left=left,
            right=right,
            **{key: at[key] for key in ("stride", "dilation", "layer", "epilogue")},
        )
        return relax.op.permute_dims(rewriter.emit(y), _FRAMES_LAST)

    def product(
        unfolded: relax.Expr, weight: list[relax.Expr], bias: relax.Expr, layer: str
    ) -> relax.Var:
        flat = np.ascontiguousarray(weight[0].value.numpy()).reshape(-1, group_channels * taps)
        y = codebook_linear(
            rewriter.emit(unfolded),
            [relax.const(flat), *weight[1:]],
            bias,
            activation=at["activation"],
            layer=layer,
            epilogue=at["epilogue"],
        )
        return rewriter.emit(y)

    axis = {"taps": taps, "stride": at["stride"], "left": left, "right": right}
    axis |= {"dilation": at["dilation"]}
    windows = {"channels": group_channels} | {key: [one] for key, one in axis.items()}
    if at["groups"] > 1:
        read = [unfold(x, first=g * group_channels, **windows) for g in range(at["groups"])]
        parts = map(product, read, *_parts(call))
        return relax.op.permute_dims(rewriter.emit(relax.op.concat([*parts], -1)), _FRAMES_LAST)
    plain = taps == 1 and at["stride"] == 1 and left == right == 0
    unfolded = relax.op.permute_dims(x, _FRAMES_LAST) if plain else unfold(x, first=0, **windows)
    return relax.op.permute_dims(product(unfolded, weight, bias, at["layer"]), _FRAMES_LAST)


def _parts(call: relax.Call) -> Iterator[tuple[Any, ...]]:
    """Weights, biases and names of a convolution's groups."""
    at, weight, bias = attributes(call), weight_of(call), call.args[-1]
    if weight is None or not isinstance(bias, GenericConst):
        raise _computed(at["layer"])
    groups = at["groups"]
    yield tuple(map(weight_constants, weight.split_rows(groups)))
    yield tuple(map(relax.const, np.split(bias.value.numpy(), groups)))
    yield tuple(f"{at['layer']}[{number}]" for number in range(groups))


def _unpadded(rewriter: CallRewriter, x: relax.Expr, padding: int) -> tuple[relax.Expr, int, int]:
    """What a convolution of `x` [B, C, T] reads, and how many zero frames stand at either end."""
    pad = rewriter.builder_.lookup_binding(x) if isinstance(x, relax.Var) else None
    if is_operator(pad, "relax.nn.pad") and pad.attrs.pad_mode == "constant":
        *others, left, right = (int(width) for width in pad.attrs.pad_width)
        if not any(others) and min(left, right) >= 0 and float(pad.attrs.pad_value) == 0:
            return pad.args[0], padding + left, padding + right
    return x, padding, padding
