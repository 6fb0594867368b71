"""Pools."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gq_tvm.onnx_import.operators.windows import Window
from gq_tvm.onnx_import.registry import Node, operator

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@operator("MaxPool")
def _max_pool(node: Node, x: Tensor) -> Any:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise node.refuse("gives the places of maxima, which are not computed here")
    if not x.is_floating_point():
        return _max_pool(node, x.float()).to(x.dtype)
    window = Window.of(node, node.get("kernel_shape"))
    padding = _padding(window)
    if padding is None:
        x = functional.pad(x, window.pads_of(x.shape[2:]), value=-math.inf)
        padding = (0,) * len(window.size)
    function = _MAX[len(window.size)]
    ceil = bool(node.get("ceil_mode", 0))
    return function(x, window.size, window.strides, padding, window.dilations, ceil)


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """The means of windows of x [B, C, ...]."""
    window = Window.of(node, node.get("kernel_shape"))
    padding, ceil = _padding(window), bool(node.get("ceil_mode", 0))
    counted = bool(node.get("count_include_pad", 0))
    function = _AVERAGE[len(window.size)]
    if max(window.dilations) == 1 and padding is not None:
        return function(x, window.size, window.strides, padding, ceil, counted)
    if ceil or max(window.dilations) > 1:
        raise node.refuse("is dilated, or rounds sizes up behind unlike padding")
    pads, none = window.pads_of(x.shape[2:]), (0,) * len(window.size)
    y = function(functional.pad(x, pads), window.size, window.strides, none)
    if counted:
        return y
    ones = functional.pad(torch.ones_like(x[:1, :1]), pads)
    return y / function(ones, window.size, window.strides, none)


@operator("LpPool")
def _lp_pool(node: Node, x: Tensor) -> Tensor:
    window, power = Window.of(node, node.get("kernel_shape")), node.get("p", 2)
    if node.get("ceil_mode", 0) or max(window.dilations) > 1:
        raise node.refuse("is dilated or rounds sizes up")
    x = functional.pad(x.abs() ** power, window.pads_of(x.shape[2:]))
    y = _AVERAGE[len(window.size)](x, window.size, window.strides)
    return (y * math.prod(window.size)) ** (1 / power)


@operator("GlobalAveragePool")
def _global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def _global_max_pool(node: Node, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def _global_lp_pool(node: Node, x: Tensor) -> Tensor:
    power = node.get("p", 2)
    return (x.abs() ** power).sum(list(range(2, x.dim())), keepdim=True) ** (1 / power)


def _padding(window: Window) -> tuple[int, ...] | None:
    """Padding that PyTorch's pools have themselves: up to half a window, equal on both sides."""
    padding = window.symmetric()
    if padding is None:
        return None
    fits = all(2 * one <= size for one, size in zip(padding, window.size, strict=True))
    return padding if fits else None
