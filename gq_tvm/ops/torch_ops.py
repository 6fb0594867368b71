"""The codebook operators in PyTorch: ``torch.ops.gq.*``, meaning exactly what ``reference`` says.

Importing this module registers them. Each has an implementation in plain tensor operations (any
device) and a fake one for ``torch.export``, in which leading sizes, batch and time may be
symbolic. They are for deployed models and have no gradient. A weight is six arguments of theirs,
those of ``torch_weight.WeightTensors``; the outliers' are the last, and may be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.ops import checks
from gq_tvm.ops import torch_float_recurrent as torch_float_recurrent  # registers these
from gq_tvm.ops import torch_recurrent as torch_recurrent
from gq_tvm.ops.torch_weight import Operand, WeightTensors, expand, operand, product, split_rows

WEIGHT = "Tensor indices, Tensor codebook, Tensor? scale, Tensor? zero"
OUTLIERS = "Tensor? outlier_positions=None, Tensor? outlier_values=None"


def convolve(
    x: Tensor,
    weight: Operand,
    bias: Tensor | None,
    taps: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution along one axis or two: x f32 [B, C, ...] -> f32 [B, N, ...].

    An integer operand has shape [N, C * taps].
    """
    if isinstance(weight, Tensor):
        function: Any = F.conv1d if len(taps) == 1 else F.conv2d
        return function(x, weight, bias, stride, padding, dilation, groups)
    rows = unfold(x, taps, stride, padding, dilation).unflatten(-1, (groups, -1)).unbind(-2)
    y = torch.cat(list(map(product, rows, split_rows(weight, groups))), -1)
    return (y if bias is None else y + bias).movedim(-1, 1)


def unfold(
    x: Tensor,
    taps: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The rows a convolution multiplies: f32 [B, C, ...] -> f32 [B, ..., C * taps].

    Those of a group lie together. Channels are major, and the taps of the last axis minor.
    """
    x = F.pad(x, [size for one in reversed(padding) for size in (one, one)])
    for axis, (count, step, apart) in enumerate(zip(taps, stride, dilation, strict=True), 2):
        x = x.unfold(axis, apart * (count - 1) + 1, step)[..., ::apart]
    axes = len(taps)
    return x.movedim(1, 1 + axes).flatten(1 + axes)


@torch.library.custom_op(
    "gq::codebook_linear",
    mutates_args=(),
    schema=f"(Tensor x, {WEIGHT}, Tensor? bias, str activation, {OUTLIERS}) -> Tensor",
)
def codebook_linear(
    x: Tensor,
    indices: Tensor,
    codebook: Tensor,
    scale: Tensor | None,
    zero: Tensor | None,
    bias: Tensor | None,
    activation: str,
    outlier_positions: Tensor | None = None,
    outlier_values: Tensor | None = None,
) -> Tensor:
    """``reference.codebook_linear``: x f32 [..., K] -> f32 [..., N]."""
    weight = WeightTensors(indices, codebook, scale, zero, outlier_positions, outlier_values)
    weight.check("codebook_linear")
    checks.check_linear("codebook_linear", x, indices.shape, bias, activation)
    y = product(x, operand(weight, activation))
    return y if bias is None else y + bias


@codebook_linear.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    weight, (bias, activation) = WeightTensors(*rest[:4], *rest[6:]), rest[4:6]
    weight.check("codebook_linear", values=False)
    checks.check_linear("codebook_linear", x, weight.indices.shape, bias, activation)
    return x.new_empty([*x.shape[:-1], weight.indices.shape[0]])


@torch.library.custom_op(
    "gq::codebook_conv1d",
    mutates_args=(),
    schema=f"(Tensor x, {WEIGHT}, Tensor? bias, int stride, int padding, int dilation, int groups,"
    f" str activation, {OUTLIERS}) -> Tensor",
)
def codebook_conv1d(
    x: Tensor,
    indices: Tensor,
    codebook: Tensor,
    scale: Tensor | None,
    zero: Tensor | None,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
    outlier_positions: Tensor | None = None,
    outlier_values: Tensor | None = None,
) -> Tensor:
    """``reference.codebook_conv1d``: x f32 [B, C, T] -> f32 [B, N, T']."""
    weight = WeightTensors(indices, codebook, scale, zero, outlier_positions, outlier_values)
    sizes = [stride], [padding], [dilation]
    return _convolution("codebook_conv1d", x, weight, bias, *sizes, groups, activation)


@codebook_conv1d.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    weight = WeightTensors(*rest[:4], *rest[10:])
    bias, stride, padding, dilation, groups, activation = rest[4:10]
    sizes = [stride], [padding], [dilation]
    return _fake_convolution("codebook_conv1d", x, weight, bias, *sizes, groups, activation)


@torch.library.custom_op(
    "gq::codebook_conv2d",
    mutates_args=(),
    schema=f"(Tensor x, {WEIGHT}, Tensor? bias, int[2] stride, int[2] padding, int[2] dilation,"
    f" str activation, {OUTLIERS}) -> Tensor",
)
def codebook_conv2d(
    x: Tensor,
    indices: Tensor,
    codebook: Tensor,
    scale: Tensor | None,
    zero: Tensor | None,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
    outlier_positions: Tensor | None = None,
    outlier_values: Tensor | None = None,
) -> Tensor:
    """``reference.codebook_conv2d``: x f32 [B, C, H, W] -> f32 [B, N, H', W']."""
    weight = WeightTensors(indices, codebook, scale, zero, outlier_positions, outlier_values)
    sizes = stride, padding, dilation
    return _convolution("codebook_conv2d", x, weight, bias, *sizes, 1, activation)


@codebook_conv2d.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    weight = WeightTensors(*rest[:4], *rest[9:])
    bias, stride, padding, dilation, activation = rest[4:9]
    sizes = stride, padding, dilation
    return _fake_convolution("codebook_conv2d", x, weight, bias, *sizes, 1, activation)


def _convolution(
    op: str,
    x: Tensor,
    weight: WeightTensors,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> Tensor:
    shape = weight.indices.shape
    weight.check(op, ndim=2 + len(stride))
    checks.check_convolution(op, x, shape, bias, groups, activation)
    checks.check_frames(op, *sizes_out(x, shape[2:], stride, padding, dilation))
    held = operand(weight, activation)
    return convolve(x, held, bias, shape[2:], stride, padding, dilation, groups).contiguous()


def sizes_out(x: Tensor, taps: Sequence[int], *options: Sequence[int]) -> list[int]:
    """The sizes behind [B, N] that a convolution gives, its options stride, padding, dilation."""
    return [
        (size + 2 * padding - dilation * (count - 1) - 1) // stride + 1
        for size, count, stride, padding, dilation in zip(x.shape[2:], taps, *options, strict=True)
    ]


def _fake_convolution(
    op: str,
    x: Tensor,
    weight: WeightTensors,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> Tensor:
    shape = weight.indices.shape
    weight.check(op, ndim=2 + len(stride), values=False)
    checks.check_convolution(op, x, shape, bias, groups, activation)
    sizes = sizes_out(x, shape[2:], stride, padding, dilation)
    for size in sizes:
        if isinstance(size, int):
            checks.check_frames(op, size)
        else:  # known at run time: a bound that torch.export holds the program's sizes to
            torch._check(size >= 1, lambda: f"{op}: x has fewer frames than the kernel spans")
    return x.new_empty([x.shape[0], shape[0], *sizes])


@torch.library.custom_op(
    "gq::codebook_embedding",
    mutates_args=(),
    schema=f"(Tensor ids, {WEIGHT}, {OUTLIERS}) -> Tensor",
)
def codebook_embedding(
    ids: Tensor,
    indices: Tensor,
    codebook: Tensor,
    scale: Tensor | None,
    zero: Tensor | None,
    outlier_positions: Tensor | None = None,
    outlier_values: Tensor | None = None,
) -> Tensor:
    """``reference.codebook_embedding``: ids i64 [...] -> f32 [..., D]."""
    op = "codebook_embedding"
    weight = WeightTensors(indices, codebook, scale, zero, outlier_positions, outlier_values)
    checks.check_dtype(op, ids=(ids, "int64"))
    weight.check(op)
    if ids.numel():
        checks.check_ids(op, int(ids.min()), int(ids.max()), indices.shape[0])
    rows = weight.take_rows(ids.reshape(-1))
    return expand(rows).reshape(*ids.shape, indices.shape[1])


@codebook_embedding.register_fake
def _(ids: Tensor, *arrays: Any) -> Tensor:
    op, weight = "codebook_embedding", WeightTensors(*arrays)
    checks.check_dtype(op, ids=(ids, "int64"))
    weight.check(op, values=False)
    return weight.codebook.new_empty([*ids.shape, weight.indices.shape[1]])
