"""The codebook operators in PyTorch: ``torch.ops.gq.*``, meaning exactly what ``reference`` says.

Importing this module registers them. Each has an implementation in plain tensor operations (any
device) and a fake one for ``torch.export``, in which leading sizes, batch and time may be
symbolic. They are for deployed models and have no gradient. A weight is six arguments of theirs,
those of ``torch_weight.WeightTensors``; the outliers' are the last, and may be left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.ops import checks
from gq_tvm.ops import torch_float_recurrent as torch_float_recurrent  # registers these
from gq_tvm.ops import torch_recurrent as torch_recurrent
from gq_tvm.ops.torch_weight import Operand, WeightTensors, expand, operand, product

WEIGHT = "Tensor indices, Tensor codebook, Tensor? scale, Tensor? zero"
OUTLIERS = "Tensor? outlier_positions=None, Tensor? outlier_values=None"


def conv1d(
    x: Tensor,
    weight: Operand,
    bias: Tensor | None,
    taps: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
) -> Tensor:
    """Conv1d: x f32 [B, C, T] -> f32 [B, N, T']; an integer operand has shape [N, C * taps]."""
    if isinstance(weight, Tensor):
        return F.conv1d(x, weight, bias, stride, padding, dilation, groups)
    y = product(unfold1d(x, taps, stride, padding, dilation), weight)
    return (y if bias is None else y + bias).transpose(1, 2)


def unfold1d(x: Tensor, taps: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The rows a convolution multiplies: f32 [B, C, T] -> f32 [B, T', C*k], channel major."""
    padded = F.pad(x, (padding, padding))
    windows = padded.unfold(2, dilation * (taps - 1) + 1, stride)[..., ::dilation]
    return windows.permute(0, 2, 1, 3).flatten(2)


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
    op = "codebook_conv1d"
    weight = WeightTensors(indices, codebook, scale, zero, outlier_positions, outlier_values)
    weight.check(op, ndim=3)
    checks.check_conv1d(op, x, indices.shape, bias, groups, activation)
    taps = indices.shape[2]
    checks.check_frames(op, _conv1d_frames(x, taps, stride, padding, dilation))
    held = operand(weight, activation)
    return conv1d(x, held, bias, taps, stride, padding, dilation, groups).contiguous()


def _conv1d_frames(x: Tensor, taps: int, stride: int, padding: int, dilation: int) -> int:
    return (x.shape[2] + 2 * padding - dilation * (taps - 1) - 1) // stride + 1


@codebook_conv1d.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    op, weight = "codebook_conv1d", WeightTensors(*rest[:4], *rest[10:])
    bias, stride, padding, dilation, groups, activation = rest[4:10]
    weight.check(op, ndim=3, values=False)
    rows, _, taps = weight.indices.shape
    checks.check_conv1d(op, x, weight.indices.shape, bias, groups, activation)
    frames = _conv1d_frames(x, taps, stride, padding, dilation)
    if isinstance(frames, int):
        checks.check_frames(op, frames)
    else:  # known at run time: a bound that torch.export holds the program's sizes to
        torch._check(frames >= 1, lambda: f"{op}: x has fewer frames than the kernel spans")
    return x.new_empty([x.shape[0], rows, frames])


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
