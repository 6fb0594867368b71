"""Operators on quantised tensors, computed as they are defined, and weights packed in bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gq_tvm.onnx_import.layers import (
    CodebookRows,
    Made,
    Rows,
    layer,
    linear,
    parameter,
)
from gq_tvm.onnx_import.lookup import Lookup, coded
from gq_tvm.onnx_import.operators.convolution import conv
from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator
from gq_tvm.onnx_import.values import torch_dtype

# 4-bit floats as bitsandbytes has them, in the order of the codes: FP4, and the 16 quantiles of a
# normal distribution, NF4 (Dettmers et al., arXiv 2305.14314, appendix E).
_HALF_FP4 = [0.0, 0.0052083333333, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25]
_FP4 = [*_HALF_FP4, *(-one for one in _HALF_FP4)]
_NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
_BOUNDS = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
}
_SMALL = {21: (torch.uint8, 0, 15), 22: (torch.int8, -8, 7)}  # UINT4 and INT4 of ONNX


def _spread(node: Node, values: Tensor, like: Tensor) -> Tensor:
    """Scales or zero points as they lie along a tensor."""
    if values.dim() == 0 or values.numel() == 1:
        return values.reshape(())
    axis = int(node.get("axis", 1))
    axis += like.dim() if axis < 0 else 0
    block = int(node.get("block_size", 0))
    if values.dim() == like.dim() and block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, like.shape[axis])
    form = [1] * like.dim()
    form[axis] = -1
    return values.reshape(form)


def _rounded(x: Tensor, dtype: torch.dtype, bounds: tuple[int, int]) -> Tensor:
    return torch.clamp(x, *bounds).to(dtype)


@operator("QuantizeLinear")
def _quantise(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    number = int(node.get("output_dtype", 0))
    if number in _SMALL:
        dtype, *bounds = _SMALL[number]
    else:
        dtype = torch_dtype(number) if number else torch.uint8 if zero is None else zero.dtype
        if dtype not in _BOUNDS:
            raise node.refuse(f"rounds to {dtype}, which is not computed here")
        bounds = list(_BOUNDS[dtype])
    y = torch.round(x / _spread(node, scale, x))
    if zero is not None:
        y = y + _spread(node, zero, x).to(y.dtype)
    return _rounded(y, dtype, (bounds[0], bounds[1]))


@operator("DequantizeLinear")
def _dequantise(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    y = x.to(scale.dtype)
    if zero is not None:
        y = y - _spread(node, zero, x).to(scale.dtype)
    return y * _spread(node, scale, x)


@operator("DynamicQuantizeLinear")
def _quantise_by_data(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    least, most = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
    scale = (most - least) / 255.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-least / scale), 0, 255)
    y = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor | None, rows: bool, dtype: torch.dtype) -> Tensor:
    """Integers less their zero points, one of each row or column where there are several."""
    if zero is None:
        return x.to(dtype)
    if zero.dim() == 1 and zero.numel() > 1:
        zero = zero[:, None] if rows else zero
    elif zero.numel() == 1:
        zero = zero.reshape(())
    return x.to(dtype) - zero.to(dtype)


@operator("MatMulInteger")
def _matmul_integer(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    wide = torch.float64  # sums of products of bytes are exact in it
    y = _centred(a, a_zero, True, wide) @ _centred(b, b_zero, False, wide)
    return y.to(torch.int32)


class _IntegerProduct(nn.Module):
    """MatMulInteger by constant weights: they stay codes, and what they mean is their table."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.product = inner

    def forward(self, a: Tensor, zero: Tensor | None = None) -> Tensor:
        """The sums, int32."""
        return torch.round(self.product(_centred(a, zero, True, torch.float32))).to(torch.int32)


@layer("MatMulInteger")
def _integer_layer(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    first, codes, _, zero = [*given, None, None][:4]
    if first is not None or not isinstance(codes, np.ndarray) or codes.ndim != 2:
        return None
    if len(node.inputs) > 3 and node.inputs[3] and zero is None:
        return None
    packed = _packed(codes.T, None, None if zero is None else np.asarray(zero).reshape(-1))
    kept = (0, 2) if len(node.inputs) > 2 and node.inputs[2] else (0,)
    return None if packed is None else Made(_IntegerProduct(linear(packed, None)), kept)


def _packed(codes: NDArray, scale: NDArray | None, zero: NDArray | None) -> Lookup | None:
    """Integers [N, K] as a look-up; scales and zero points [1] or [N]."""
    found = coded(np.ascontiguousarray(codes))
    if found is None:
        return None
    given = [None if one is None else one.astype(np.float32)[:, None] for one in (scale, zero)]
    zeros = given[1] if given[1] is not None and given[1].any() else None
    return Lookup(*found, given[0], zeros, (1, 1))


@operator("ConvInteger")
def _conv_integer(
    node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    wide = torch.float32
    if w_zero is not None and w_zero.numel() > 1:
        w_zero = w_zero.reshape([-1, *[1] * (w.dim() - 1)])
    weight = w.to(wide) if w_zero is None else w.to(wide) - w_zero.to(wide)
    return torch.round(conv(node, _centred(x, x_zero, False, wide), weight)).to(torch.int32)


@operator("QLinearMatMul")
def _qlinear_matmul(
    node: Node,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    wide = torch.float64
    sums = _centred(a, a_zero, True, wide) @ _centred(b, b_zero, False, wide)
    rows = a_scale[:, None] if a_scale.numel() > 1 else a_scale.reshape(())
    columns = b_scale if b_scale.numel() > 1 else b_scale.reshape(())
    factor = rows * columns / y_scale
    return requantised(sums.float() * factor, y_zero)


def requantised(x: Tensor, zero: Tensor) -> Tensor:
    """Quotients by a scale as integers of the dtype of a zero point, ties to even."""
    y = torch.round(x) + zero.to(torch.float32)
    return _rounded(y, zero.dtype, _BOUNDS[zero.dtype])


@operator("QLinearConv")
def _qlinear_conv(
    node: Node,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    form = [-1, *[1] * (w.dim() - 1)]
    weight = w.float() - (w_zero.reshape(form) if w_zero.numel() > 1 else w_zero).float()
    sums = conv(node, _centred(x, x_zero, False, torch.float32), weight)
    form = [-1, *[1] * (w.dim() - 2)]
    if bias is not None:
        sums = sums + bias.reshape(form).float()
    factor = x_scale * w_scale / y_scale
    return requantised(sums * (factor.reshape(form) if factor.numel() > 1 else factor), y_zero)


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_matmul(
    node: Node,
    a: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    codes, scale, zero = _quantise_by_data(node, a)
    return _matmul_to_float(node, codes, b, scale, b_scale, zero, b_zero, bias)


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_to_float(
    node: Node,
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None = None,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    wide = torch.float64
    sums = _centred(a, a_zero, True, wide) @ _centred(b, b_zero, False, wide)
    y = sums.to(a_scale.dtype) * (a_scale * b_scale)
    return y if bias is None else y + bias


class _ScaledProduct(nn.Module):
    """The two operators above by constant weights."""

    def __init__(self, inner: nn.Module, dynamic: bool, bias: NDArray | None) -> None:
        super().__init__()
        self.product = inner
        self._dynamic = dynamic
        self.bias = None if bias is None else parameter(bias)

    def forward(self, a: Tensor, scale: Any = None, zero: Any = None) -> Tensor:
        """The product, float."""
        if self._dynamic:
            a, scale, zero = _quantise_by_data(Node("", "", 0, "", (), ()), a)
        y = self.product(_centred(a, zero, True, torch.float32)) * scale
        return y if self.bias is None else y + self.bias


@layer("DynamicQuantizeMatMul", "MatMulIntegerToFloat", domain=MICROSOFT)
def _scaled_layer(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    dynamic = node.operator == "DynamicQuantizeMatMul"
    at = (2, 3, 4) if dynamic else (3, 5, 6)
    full = [*given, *[None] * 7]
    codes, (scale, zero, bias) = full[1], (full[one] for one in at)
    names = [*node.inputs, *[""] * 7]
    if given[0] is not None or not isinstance(codes, np.ndarray) or codes.ndim != 2:
        return None
    if any(names[one] and full[one] is None for one in at) or scale is None:
        return None
    zeros = None if zero is None else np.asarray(zero).reshape(-1)
    packed = _packed(codes.T, np.asarray(scale).reshape(-1), zeros)
    if packed is None:
        return None
    kept: tuple[int, ...] = (0,) if dynamic else (0, 2, 4)
    kept = tuple(one for one in kept if one < len(node.inputs))
    return Made(_ScaledProduct(linear(packed, None), dynamic, bias), kept)


def unpacked(data: NDArray, bits: int, width: int) -> NDArray[np.uint8]:
    """Codes in bytes, the lowest bits first: [..., bytes] as [..., width]."""
    each = 8 // bits
    shifts = np.arange(each, dtype=np.uint8) * bits
    codes = (data[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape([*data.shape[:-1], -1])[..., :width]


@layer("MatMulNBits", domain=MICROSOFT)
def _nbits(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    first, data, scales, zeros, order, bias = [*given, None, None, None][:6]
    if first is not None or data is None or scales is None:
        return None
    rows, width, block = (int(node.get(one)) for one in ("N", "K", "block_size"))
    bits, names = int(node.get("bits", 4)), [*node.inputs, "", "", ""]
    if bits not in (2, 4, 8) or order is not None or names[4]:
        raise node.refuse("has bits other than 2, 4 or 8, or reordered groups")
    if (names[3] and zeros is None) or (names[5] and bias is None):
        return None
    blocks = -(-width // block)
    codes = unpacked(data.reshape(rows, blocks, -1), bits, block).reshape(rows, -1)[:, :width]
    if zeros is None:
        zero = np.full((rows, blocks), 2 ** (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        zero = unpacked(zeros.reshape(rows, -1), bits, blocks).astype(np.float32)
    else:
        zero = zeros.astype(np.float32).reshape(rows, blocks)
    scale = scales.astype(np.float32).reshape(rows, blocks)
    weight = Lookup(
        np.ascontiguousarray(codes), np.arange(2**bits, dtype=np.float32), scale, zero, (1, block)
    )
    return Made(linear(weight, bias), (0,))


@layer("MatMulBnb4", domain=MICROSOFT)
def _bnb4(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    first, data, absmax = given[:3]
    if first is not None or data is None or absmax is None:
        return None
    rows, width, block = (int(node.get(one)) for one in ("N", "K", "block_size"))
    flat = data.reshape(-1)
    codes = np.stack([flat >> 4, flat & 15], -1).reshape(-1)[: rows * width]
    table = np.array(_NF4 if node.get("quant_type", 1) else _FP4, np.float32)
    scale = absmax.astype(np.float32).reshape(-1)
    weight: Lookup | NDArray
    if width % block == 0:
        blocks = (rows, width // block)
        weight = Lookup(codes.reshape(rows, width), table, scale.reshape(blocks), None, (1, block))
    else:  # blocks run on over the ends of rows
        weight = (table[codes] * scale[np.arange(codes.size) // block]).reshape(rows, width)
    if node.get("transB", 1) == 0:
        raise node.refuse("has transB=0, which is not taken here")
    return Made(linear(weight, None), (0,))


@layer("GatherBlockQuantized", domain=MICROSOFT)
def _gather_blocks(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    data, ids, scales, zeros = [*given, None][:4]
    if data is None or scales is None or ids is not None:
        return None
    if len(node.inputs) > 3 and node.inputs[3] and zeros is None:
        return None
    bits, block = int(node.get("bits", 4)), int(node.get("block_size", 128))
    packed = data.dtype == np.uint8
    axis = int(node.get("quantize_axis", 1)) % data.ndim
    if data.ndim != 2 or int(node.get("gather_axis", 0)) % 2 != 0 or axis != 1:
        raise node.refuse("gathers along another axis than the first of two")
    if packed:
        width = data.shape[1] * 8 // bits
        codes = unpacked(data, bits, width)
        table = np.arange(2**bits, dtype=np.float32)
        zero: NDArray | None = np.full(scales.shape, 2 ** (bits - 1), np.float32)
        if zeros is not None and zeros.dtype == np.uint8:
            zero = unpacked(zeros, bits, scales.shape[1]).astype(np.float32)
    else:
        found = coded(data)
        if found is None:
            return None
        codes, table = found
        zero = None if zeros is None else zeros.astype(np.float32)
    weight = Lookup(np.ascontiguousarray(codes), table, scales.astype(np.float32), zero, (1, block))
    arrays = weight.weight()
    if arrays is not None:
        return Made(CodebookRows(arrays), (1,), 0)
    rows = Rows(weight.shape[0], weight.shape[1], device="meta")
    rows.weight = parameter(weight.dense())
    return Made(rows, (1,), 0)


@operator("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", domain=MICROSOFT)
def _computed(node: Node, *_: Any) -> Any:
    raise node.refuse("has weights that are computed from data, or an input that is a constant")
