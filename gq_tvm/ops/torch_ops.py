"""The codebook operators in PyTorch: ``torch.ops.gq.*``, meaning exactly what ``reference`` says.

Importing this module registers them. Each has an implementation in plain tensor operations (any
device) and a fake one for ``torch.export``, in which leading sizes, batch and time may be
symbolic. They are for deployed models and have no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.ops import checks
from gq_tvm.ops.rounding import INT2_STEP, MEAN_STEPS, SMALLEST_LIVE

_SMALLEST_LIVE = float(SMALLEST_LIVE)
_FLOAT32_EXACT = 2**24  # float32 holds every integer up to here


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row (last axis) as ``rounding.quantize_rows``, in tensors.

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` f32 [..., K] holding integers in [-127, 127], and ``scale`` f32 [..., 1], NaN for a
        row with NaN or infinity.
    """
    inv, scale = row_scales(x)
    # 0 * infinity is NaN, so rows that are not finite are cleared, not scaled away.
    return torch.where(torch.isfinite(scale), x * inv, 0.0).round_(), scale


def row_scales(x: Tensor) -> tuple[Tensor, Tensor]:
    """What a row is multiplied by to become integers, and what brings it back.

    Args:
        x: f32 [..., K].

    Returns:
        ``inv`` and ``scale``, f32 [..., 1]; both 0 below 2^-100, 0 and NaN with NaN or infinity.
    """
    amax = x.abs().amax(dim=-1, keepdim=True)
    finite = torch.isfinite(amax)
    live = finite & (amax >= _SMALLEST_LIVE)
    inv = torch.where(live, _divide(127, amax), 0.0)
    return inv, torch.where(live, amax / 127, torch.where(finite, 0.0, torch.nan))


def _divide(number: float, by: Tensor) -> Tensor:
    """``number / by``, rounded once: PyTorch's own operator multiplies by a rounded reciprocal."""
    return torch.div(torch.tensor(number, dtype=by.dtype, device=by.device), by)


def mean_magnitudes(x: Tensor) -> Tensor:
    """The mean of |x| over each row as ``rounding.mean_magnitudes``: f32 [..., K] -> [..., 1]."""
    magnitudes = x.abs()
    amax = magnitudes.amax(dim=-1, keepdim=True)
    finite = torch.isfinite(amax)
    live = finite & (amax >= _SMALLEST_LIVE)
    on_grid = magnitudes.mul_(torch.where(live, _divide(MEAN_STEPS, amax), 0.0)).round_()
    total = torch.where(live, on_grid, 0.0).sum(dim=-1, keepdim=True, dtype=torch.float64)
    mean = (amax / MEAN_STEPS) * (total.float() / x.shape[-1])
    return torch.where(live, mean, torch.where(finite, 0.0, torch.nan))


def quantize_activations(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Round each row (last axis) as ``rounding.ROW_QUANTIZERS[activation]``, in tensors.

    Args:
        x: f32 [..., K].
        activation: ``"int8"``, ``"int2"`` or ``"int1"``.

    Returns:
        ``q`` f32 [..., K] holding integers, and ``scale`` f32 [..., 1].
    """
    if activation == "int8":
        return quantize_rows(x)
    scale = mean_magnitudes(x)
    if activation == "int1":
        return torch.where(x < 0, -1.0, 1.0), scale
    scale = scale * INT2_STEP
    q = torch.where(x.abs() > scale + scale, 3.0, 1.0)
    return torch.where(x < 0, -q, q), scale


def expand(indices: Tensor, codebook: Tensor) -> Tensor:
    """The weight behind ``indices`` [N, ...]: same shape, dtype of the codebook."""
    if codebook.shape[0] == 1:
        return codebook[0][indices.int()]
    flat = indices.reshape(indices.shape[0], -1).long()
    return codebook.gather(1, flat).reshape(indices.shape)


def integer_linear(q: Tensor, scale: Tensor, grid: Tensor, scale_w: Tensor) -> Tensor:
    """``float(sum of integers) * (scale * scale_w)``, the sum exact.

    Args:
        q: integers as f32 [..., K].
        scale: f32 [..., 1].
        grid: integers of the weight as f32 [N, K].
        scale_w: f32 [1] or [N].

    Returns:
        f32 [..., N].
    """
    if grid.shape[1] * 127 * 127 <= _FLOAT32_EXACT:
        acc = F.linear(q, grid)
    else:
        acc = F.linear(q.double(), grid.double()).float()
    return acc * (scale * scale_w)


def check_codebook(op: str, indices: Tensor, codebook: Tensor, bits: int, ndim: int = 2) -> None:
    """Refuse indices and a codebook that make no weight of so many bits."""
    if not 1 <= bits <= 8:
        raise Error(f"{op}: bits must be from 1 to 8, got {bits}.")
    checks.check_weight(op, indices, codebook, None, None, ndim)
    checks.check_shape(op, "codebook", codebook.shape, (None, 2**bits))


def check_linear(
    op: str,
    x: Tensor,
    indices: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    bits: int,
    activation: str,
) -> None:
    """Everything ``codebook_linear`` demands, short of the values in ``indices``."""
    check_codebook(op, indices, codebook, bits)
    checks.check_linear(op, x, indices.shape, bias, activation)


def check_indices(op: str, indices: Tensor, bits: int) -> None:
    """Refuse indices without a centroid."""
    if bits < 8 and indices.numel():
        checks.check_largest_index(op, int(indices.max()), bits)


class IntegerWeight(NamedTuple):
    """A weight on its int8 grid, for rows that are rounded to integers.

    Attributes:
        grid: integers as f32 [N, K].
        scale: f32 [1] or [N].
        activation: how rows are rounded, ``"int8"``, ``"int2"`` or ``"int1"``.
    """

    grid: Tensor
    scale: Tensor
    activation: str


# What a matrix product needs of a weight: its floats, or its integers.
Operand = Tensor | IntegerWeight


def operand(indices: Tensor, codebook: Tensor, activation: str) -> Operand:
    """Expand a weight once for many products: indices u8 [N, ...], codebook f32 [G, 2^bits].

    Rows of integers meet rows of integers: unless ``activation`` is ``"fp32"`` the weight becomes
    one row for each of N, whatever the axes of ``indices``.
    """
    if activation == "fp32":
        return expand(indices, codebook)
    grid, scale = quantize_rows(codebook)
    return IntegerWeight(expand(indices.flatten(1), grid), scale[:, 0], activation)


def split_rows(weight: Operand, parts: int) -> list[Operand]:
    """An operand [N, K] as ``parts`` operands of N / parts rows each."""
    if isinstance(weight, Tensor):
        return list(weight.chunk(parts))
    scales = weight.scale.chunk(parts) if len(weight.scale) > 1 else [weight.scale] * parts
    grids = weight.grid.chunk(parts)
    return [
        IntegerWeight(grid, scale, weight.activation)
        for grid, scale in zip(grids, scales, strict=True)
    ]


def product(x: Tensor, weight: Operand) -> Tensor:
    """``x W^T``: x f32 [..., K] -> f32 [..., N], with rows rounded where the weight is integers."""
    if isinstance(weight, Tensor):
        return F.linear(x, weight)
    q, scale = quantize_activations(x, weight.activation)
    return integer_linear(q, scale, weight.grid, weight.scale)


def lstm_layer(
    x: Tensor, h: Tensor, c: Tensor, weight_ih: Operand, weight_hh: Operand, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer, batch first: x f32 [B, T, I] -> y f32 [B, T, H], and the last h and c."""
    steps = []
    for gates_x in product(x, weight_ih).unbind(1):
        h, c = lstm_cell(gates_x + product(h, weight_hh), bias, c)
        steps.append(h)
    y = torch.stack(steps, 1) if steps else x.new_empty(x.shape[0], 0, h.shape[1])
    return y, h, c


def lstm_cell(gates: Tensor, bias: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM step: gates f32 [B, 4H] (i, f, g, o), cell f32 [B, H] -> the new h and c."""
    i, f, g, o = (gates if bias is None else gates + bias).chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


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
    schema="(Tensor x, Tensor indices, Tensor codebook, Tensor? bias, int bits, str activation)"
    " -> Tensor",
)
def codebook_linear(
    x: Tensor, indices: Tensor, codebook: Tensor, bias: Tensor | None, bits: int, activation: str
) -> Tensor:
    """``reference.codebook_linear``: x f32 [..., K] -> f32 [..., N]."""
    op = "codebook_linear"
    check_linear(op, x, indices, codebook, bias, bits, activation)
    check_indices(op, indices, bits)
    y = product(x, operand(indices, codebook, activation))
    return y if bias is None else y + bias


@codebook_linear.register_fake
def _(
    x: Tensor, indices: Tensor, codebook: Tensor, bias: Tensor | None, bits: int, activation: str
) -> Tensor:
    op = "codebook_linear"
    check_linear(op, x, indices, codebook, bias, bits, activation)
    return x.new_empty([*x.shape[:-1], indices.shape[0]])


@torch.library.custom_op(
    "gq::codebook_lstm",
    mutates_args=(),
    schema="(Tensor x, Tensor h0, Tensor c0, Tensor indices_ih, Tensor codebook_ih,"
    " Tensor indices_hh, Tensor codebook_hh, Tensor? bias, int bits_ih, int bits_hh,"
    " str activation) -> (Tensor, Tensor, Tensor)",
)
def codebook_lstm(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    indices_ih: Tensor,
    codebook_ih: Tensor,
    indices_hh: Tensor,
    codebook_hh: Tensor,
    bias: Tensor | None,
    bits_ih: int,
    bits_hh: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.codebook_lstm``: x f32 [B, T, I] -> y f32 [B, T, H], h and c f32 [B, H]."""
    op = "codebook_lstm"
    check_codebook(op, indices_ih, codebook_ih, bits_ih)
    check_codebook(op, indices_hh, codebook_hh, bits_hh)
    checks.check_lstm(op, x, h0, c0, indices_ih.shape, indices_hh.shape, bias, activation)
    check_indices(op, indices_ih, bits_ih)
    check_indices(op, indices_hh, bits_hh)
    weight_ih = operand(indices_ih, codebook_ih, activation)
    weight_hh = operand(indices_hh, codebook_hh, activation)
    # The outputs of an operator may not be its inputs, as they would be without any frame.
    return lstm_layer(x, h0.clone(), c0.clone(), weight_ih, weight_hh, bias)


@codebook_lstm.register_fake
def _(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    indices_ih: Tensor,
    codebook_ih: Tensor,
    indices_hh: Tensor,
    codebook_hh: Tensor,
    bias: Tensor | None,
    bits_ih: int,
    bits_hh: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    op = "codebook_lstm"
    check_codebook(op, indices_ih, codebook_ih, bits_ih)
    check_codebook(op, indices_hh, codebook_hh, bits_hh)
    checks.check_lstm(op, x, h0, c0, indices_ih.shape, indices_hh.shape, bias, activation)
    y = x.new_empty([x.shape[0], x.shape[1], h0.shape[1]])
    return y, h0.new_empty(h0.shape), c0.new_empty(c0.shape)


@torch.library.custom_op(
    "gq::codebook_conv1d",
    mutates_args=(),
    schema="(Tensor x, Tensor indices, Tensor codebook, Tensor? bias, int bits, int stride,"
    " int padding, int dilation, int groups, str activation) -> Tensor",
)
def codebook_conv1d(
    x: Tensor,
    indices: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    bits: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
) -> Tensor:
    """``reference.codebook_conv1d``: x f32 [B, C, T] -> f32 [B, N, T']."""
    op = "codebook_conv1d"
    check_codebook(op, indices, codebook, bits, ndim=3)
    checks.check_conv1d(op, x, indices.shape, bias, groups, activation)
    check_indices(op, indices, bits)
    taps = indices.shape[2]
    checks.check_frames(op, _conv1d_frames(x, taps, stride, padding, dilation))
    weight = operand(indices, codebook, activation)
    return conv1d(x, weight, bias, taps, stride, padding, dilation, groups).contiguous()


def _conv1d_frames(x: Tensor, taps: int, stride: int, padding: int, dilation: int) -> int:
    return (x.shape[2] + 2 * padding - dilation * (taps - 1) - 1) // stride + 1


@codebook_conv1d.register_fake
def _(
    x: Tensor,
    indices: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    bits: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    activation: str,
) -> Tensor:
    op = "codebook_conv1d"
    check_codebook(op, indices, codebook, bits, ndim=3)
    checks.check_conv1d(op, x, indices.shape, bias, groups, activation)
    frames = _conv1d_frames(x, indices.shape[2], stride, padding, dilation)
    if isinstance(frames, int):
        checks.check_frames(op, frames)
    else:  # known at run time: a bound that torch.export holds the program's sizes to
        torch._check(frames >= 1, lambda: f"{op}: x has fewer frames than the kernel spans")
    return x.new_empty([x.shape[0], indices.shape[0], frames])


@torch.library.custom_op(
    "gq::codebook_embedding",
    mutates_args=(),
    schema="(Tensor ids, Tensor indices, Tensor codebook, int bits) -> Tensor",
)
def codebook_embedding(ids: Tensor, indices: Tensor, codebook: Tensor, bits: int) -> Tensor:
    """``reference.codebook_embedding``: ids i64 [...] -> f32 [..., D]."""
    op = "codebook_embedding"
    checks.check_dtype(op, ids=(ids, "int64"))
    check_codebook(op, indices, codebook, bits)
    check_indices(op, indices, bits)
    if ids.numel():
        checks.check_ids(op, int(ids.min()), int(ids.max()), indices.shape[0])
    flat = ids.reshape(-1)
    rows = codebook if codebook.shape[0] == 1 else codebook[flat]
    return expand(indices[flat], rows).reshape(*ids.shape, indices.shape[1])


@codebook_embedding.register_fake
def _(ids: Tensor, indices: Tensor, codebook: Tensor, bits: int) -> Tensor:
    op = "codebook_embedding"
    checks.check_dtype(op, ids=(ids, "int64"))
    check_codebook(op, indices, codebook, bits)
    return codebook.new_empty([*ids.shape, indices.shape[1]])
