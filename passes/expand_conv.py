"""Make a convolution in one group a matrix product over unfolded frames.

Each output frame becomes a row of C * k inputs, channel major and tap minor as the weight is laid
out. Convolutions in several groups stay: their rows are too short for a product kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx
from tvm.ir import GenericConst, IRModule

from gq_tvm.errors import Error
from gq_tvm.passes.operators import (
    CONV1D,
    attributes,
    codebook_linear,
    conv1d_frames,
    is_operator,
    shape_of,
)
from gq_tvm.passes.rewriter import CallRewriter, ModulePass


@tvm.transform.module_pass(opt_level=0)
class ExpandConv(ModulePass):
    """codebook_conv1d with groups=1 becomes unfold, codebook_linear and a transposition."""

    def transform_module(self, module: IRModule, _: tvm.transform.PassContext) -> IRModule:
        """Rewrite every function."""
        return CallRewriter(module, _expand).run()


def _expand(rewriter: CallRewriter, call: relax.Call) -> relax.Expr | None:
    if not is_operator(call, CONV1D):
        return None
    at = attributes(call)
    if at["groups"] != 1:
        return None
    x, indices, codebook, bias = call.args
    if not isinstance(indices, GenericConst):
        raise Error(f"layer {at['layer']}: its weight is computed while the model runs")
    rows, channels, taps = shape_of(indices)
    flat = relax.const(np.ascontiguousarray(indices.value.numpy()).reshape(rows, channels * taps))
    plain = taps == 1 and at["stride"] == 1 and at["padding"] == 0
    unfolded = (
        relax.op.permute_dims(x, [0, 2, 1])
        if plain
        else rewriter.builder_.call_te(
            _unfold, x, taps, at["stride"], at["padding"], at["dilation"]
        )
    )
    product = codebook_linear(
        rewriter.emit(unfolded),
        flat,
        codebook,
        bias,
        bits=at["bits"],
        activation=at["activation"],
        layer=at["layer"],
        epilogue=at["epilogue"],
    )
    return relax.op.permute_dims(rewriter.emit(product), [0, 2, 1])


def _unfold(x: te.Tensor, taps: int, stride: int, padding: int, dilation: int) -> te.Tensor:
    """x f32 [B, C, T] -> f32 [B, T', C * taps], zeros outside."""
    batch, channels, frames = x.shape
    frames_out = conv1d_frames(frames, taps, stride, padding, dilation)

    def value(b: Any, t: Any, r: Any) -> Any:
        at = t * stride + r % taps * dilation - padding
        inside = tirx.all(at >= 0, at < frames)
        return tirx.if_then_else(inside, x[b, r // taps, at], tirx.const(0, x.dtype))

    return te.compute((batch, frames_out, channels * taps), value, name="unfold")
