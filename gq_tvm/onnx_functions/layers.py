"""Linear layers, convolutions and embeddings with weights in codebooks, in nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gq_tvm.onnx_functions.body import Body
from gq_tvm.onnx_functions.signature import Signature
from gq_tvm.onnx_functions.weight import (
    Coded,
    Operand,
    expanded,
    product,
    product_by_groups,
)


def linear(body: Body, signature: Signature) -> list[str]:
    """``ops.reference.codebook_linear``: x f32 [..., K] -> f32 [..., N]."""
    weight = Coded.of(signature.inputs, signature.attributes)
    operand = Operand.of(body, weight, signature.attributes["activation"])
    y = product(body, "x", operand)
    return [body("Add", y, "bias") if "bias" in signature.inputs else y]


def embedding(body: Body, signature: Signature) -> list[str]:
    """``ops.reference.codebook_embedding``: ids i64 [...] -> f32 [..., D]."""
    weight = Coded.of(signature.inputs, signature.attributes)
    return [body("Gather", expanded(body, weight), "ids", axis=0)]


def convolution(body: Body, signature: Signature) -> list[str]:
    """``ops.reference.codebook_conv1d`` and ``codebook_conv2d``: f32 [B, C, ...] -> [B, N, ...]."""
    weight = Coded.of(signature.inputs, signature.attributes)
    options = signature.attributes
    axes = len(weight.shape) - 2
    stride, padding, dilation = (_each(options[one], axes) for one in _SIZES)
    bias = ["bias"] if "bias" in signature.inputs else []
    if options["activation"] == "fp32":
        y = body(
            "Conv",
            "x",
            expanded(body, weight),
            *bias,
            strides=stride,
            pads=[*padding, *padding],
            dilations=dilation,
            group=options.get("groups", 1),
        )
        return [y]
    rows = _unfolded(body, "x", weight.shape[2:], stride, padding, dilation)
    operand = Operand.of(body, weight, options["activation"])
    y = product_by_groups(body, rows, operand, options.get("groups", 1))
    y = body("Add", y, *bias) if bias else y
    return [body("Transpose", y, perm=[0, axes + 1, *range(1, axes + 1)])]


_SIZES = ("stride", "padding", "dilation")


def _each(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def _unfolded(
    body: Body,
    x: str,
    taps: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> str:
    """The rows a convolution multiplies: f32 [B, C, ...] -> f32 [B, ..., C * taps]."""
    axes = len(taps)
    if any(padding):
        x = body("Pad", x, body.sizes(0, 0, *padding, 0, 0, *padding))
    for number, (count, step, apart) in enumerate(zip(taps, stride, dilation, strict=True)):
        axis = 2 + 2 * number  # those before it have become two each
        size = body("Shape", x, start=axis, end=axis + 1)
        reach = apart * (count - 1) + 1
        frames = body("Div", body("Sub", size, body.sizes(reach - step)), body.sizes(step))
        zero, one = (body.constant(value, np.int64) for value in (0, 1))
        first = body("Range", zero, body("Squeeze", frames), one)
        first = body("Mul", body("Unsqueeze", first, body.sizes(1)), body.sizes(step))
        places = body("Add", first, body.constant(np.arange(count) * apart, np.int64))
        x = body("Gather", x, places, axis=axis)
    order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
    x = body("Transpose", x, perm=order)
    kept = body("Shape", x, start=0, end=1 + axes)
    return body("Reshape", x, body("Concat", kept, body.sizes(-1), axis=0))
