"""Convolutions whose weights are no constants, and all transposed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from gq_tvm.onnx_import.layers import Made, layer, parameter
from gq_tvm.onnx_import.lookup import Lookup
from gq_tvm.onnx_import.operators.windows import Window
from gq_tvm.onnx_import.registry import Node, operator

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_LAYERS: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@operator("Conv")
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution of a node with a weight that is computed."""
    window = Window.of(node, weight.shape[2:])
    padding = window.symmetric()
    if padding is None:
        x, padding = functional.pad(x, window.pads_of(x.shape[2:])), (0,) * len(window.size)
    groups = int(node.get("group", 1))
    function = _CONV[weight.dim() - 2]
    return function(x, weight, bias, window.strides, padding, window.dilations, groups)


class _Transposition:
    """How the result of a transposed convolution is cut to what ONNX wants of it."""

    def __init__(self, node: Node, size: Sequence[int]) -> None:
        self.window = Window.of(node, size)
        self.extra = tuple(node.get("output_padding") or [0] * len(size))
        self.wanted = node.get("output_shape")
        axes = len(size)
        if self.wanted:
            self.wanted = list(self.wanted)[-axes:]
        self.groups = int(node.get("group", 1))
        whole = self.wanted or self.window.automatic.startswith("SAME")
        # What PyTorch's own padding says; the rest is cut.
        self.padding = None if whole else self.window.symmetric()
        if self.padding is not None and any(
            one >= max(stride, dilation)
            for one, stride, dilation in zip(
                self.extra, self.window.strides, self.window.dilations, strict=True
            )
        ):
            self.padding = None

    def cut(self, y: Tensor, sizes: Sequence[Any]) -> Tensor:
        """The result of no padding, cut and lengthened."""
        window = self.window
        pads: list[Any] = []
        for axis, size in enumerate(sizes):
            stride = window.strides[axis]
            reach = window.dilations[axis] * (window.size[axis] - 1) + 1
            full = stride * (size - 1) + reach + self.extra[axis]
            if self.wanted or window.automatic.startswith("SAME"):
                wanted = self.wanted[axis] if self.wanted else size * stride
                total = full - wanted
                less = total // 2
                upper = window.automatic != "SAME_UPPER"
                begin, end = (total - less, less) if upper else (less, total - less)
            else:
                begin, end = window.begins[axis], window.ends[axis]
            pads.append((-begin, self.extra[axis] - end))
        return functional.pad(y, [one for pair in reversed(pads) for one in pair])


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The transposed convolution of a node with a weight that is computed."""
    form = _Transposition(node, weight.shape[2:])
    function, window = _TRANSPOSED[weight.dim() - 2], form.window
    if form.padding is not None:
        rest = (window.strides, form.padding, form.extra, form.groups, window.dilations)
        return function(x, weight, bias, *rest)
    none = (0,) * len(window.size)
    y = function(x, weight, None, window.strides, none, none, form.groups, window.dilations)
    y = form.cut(y, x.shape[2:])
    return y if bias is None else y + bias.reshape([-1, *[1] * len(window.size)])


class _Cut(nn.Module):
    def __init__(self, form: _Transposition, inner: nn.Module) -> None:
        super().__init__()
        self._form = form
        self.conv = inner

    def forward(self, x: Tensor) -> Tensor:
        """The transposed convolution, cut."""
        return self._form.cut(self.conv(x), x.shape[2:])


@layer("ConvTranspose")
def _made(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    first, weight, bias = [*given, None][:3]
    if isinstance(weight, Lookup):
        weight = weight.dense()
    axes = weight.ndim - 2 if weight is not None else 0
    if first is not None or axes not in _LAYERS or (len(node.inputs) > 2 and bias is None):
        return None
    form = _Transposition(node, weight.shape[2:])
    if form.padding is None and (any(form.extra) and bias is not None):
        return None  # a bias belongs to what lengthens the result too
    none = (0,) * axes
    made = _LAYERS[axes](
        weight.shape[0],
        weight.shape[1] * form.groups,
        weight.shape[2:],
        form.window.strides,
        none if form.padding is None else form.padding,
        none if form.padding is None else form.extra,
        form.groups,
        bias is not None,
        form.window.dilations,
        device="meta",
    )
    made.weight = parameter(np.ascontiguousarray(weight))
    if bias is not None:
        made.bias = parameter(bias)
    return Made(made if form.padding is not None else _Cut(form, made), (0,))


@operator("Col2Im", host=(1, 2))
def _col2im(node: Node, x: Tensor, image: Any, block: Any) -> Tensor:
    sizes, taps = image.numbers(), block.numbers()
    if len(sizes) != 2:
        raise node.refuse("has other than 2 axes")
    pads = node.get("pads") or [0] * 4
    if pads[:2] != pads[2:]:
        raise node.refuse("has unlike padding on both sides")
    rest: Any = (node.get("dilations") or [1, 1], pads[:2], node.get("strides") or [1, 1])
    return functional.fold(x, sizes, taps, *rest)


@operator("DepthToSpace")
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    size = int(node.get("blocksize"))
    batch, depth, height, width = x.shape
    rest = depth // (size * size)
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(batch, size, size, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, rest, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, rest, height * size, width * size)


@operator("SpaceToDepth")
def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    size = int(node.get("blocksize"))
    batch, depth, height, width = x.shape
    parts = x.reshape(batch, depth, height // size, size, width // size, size)
    parts = parts.permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(batch, depth * size * size, height // size, width // size)
