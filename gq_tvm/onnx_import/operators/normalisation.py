"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator


@operator("BatchNormalization", statistics=(3, 4))
def _batch_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if node.get("training_mode", 0):
        raise node.refuse("is in training mode; export the model in evaluation mode")
    return functional.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    axes = list(range(2, x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    deviation = torch.sqrt((centred * centred).mean(axes, keepdim=True) + node.get("epsilon", 1e-5))
    form = [-1, *[1] * len(axes)]
    return centred / deviation * scale.reshape(form) + bias.reshape(form)


@operator("GroupNormalization")
def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channels = int(node.get("num_groups")), x.shape[1]
    if scale.shape[0] != channels:  # of opset 18: one for each group
        scale, bias = (one.repeat_interleave(channels // groups) for one in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@operator("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axis = int(node.get("axis", -1))
    axis += x.dim() if axis < 0 else 0
    epsilon = node.get("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if list(scale.shape) == shape and (bias is None or list(bias.shape) == shape):
        y = functional.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = functional.layer_norm(x, shape, None, None, epsilon) * scale
        y = y if bias is None else y + bias
    if not any(node.outputs[1:]):
        return y
    axes = list(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    return y, mean, torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)


@operator("RMSNormalization")
@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=MICROSOFT)
def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axis = int(node.get("axis", -1))
    axes = list(range(axis + x.dim() if axis < 0 else axis, x.dim()))
    mean = (x * x).mean(axes, keepdim=True)
    return x * torch.rsqrt(mean + node.get("epsilon", 1e-5)) * scale


@operator("SkipLayerNormalization", domain=MICROSOFT)
def _skip_layer_norm(
    node: Node,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
) -> Any:
    total = x + skip if bias is None else x + skip + bias
    y = functional.layer_norm(total, [total.shape[-1]], scale, beta, node.get("epsilon", 1e-12))
    return _with_sum(node, y, total)


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def _skip_rms_norm(
    node: Node, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Any:
    total = x + skip if bias is None else x + skip + bias
    mean = (total * total).mean(-1, keepdim=True)
    y = total * torch.rsqrt(mean + node.get("epsilon", 1e-12)) * scale
    return _with_sum(node, y, total)


def _with_sum(node: Node, y: Tensor, total: Tensor) -> Any:
    if any(node.outputs[1:3]):
        raise node.refuse("gives means and variances, which are not computed here")
    return (y, None, None, total) if len(node.outputs) > 3 else y


@operator("LpNormalization")
def _lp_norm(node: Node, x: Tensor) -> Tensor:
    power, axis = node.get("p", 2), int(node.get("axis", -1))
    norm = x.abs().sum(axis, keepdim=True) if power == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def _mean_variance(node: Node, x: Tensor) -> Tensor:
    axes = list(node.get("axes") or [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)


@operator("LRN")
def _lrn(node: Node, x: Tensor) -> Tensor:
    size = int(node.get("size"))
    squares = functional.pad(
        (x * x).movedim(1, -1).unsqueeze(-2), ((size - 1) // 2, size - 1 - (size - 1) // 2)
    )
    sums = squares.unfold(-1, size, 1).sum(-1).squeeze(-2).movedim(-1, 1)
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return x / (bias + alpha / size * sums) ** beta


@operator("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: Node, x: Tensor) -> Tensor:
    axis = int(node.get("axis", -1 if node.version >= 13 else 1))
    flat, shape = x, x.shape
    if node.version < 13:  # all axes from there on were one
        axis += x.dim() if axis < 0 else 0
        if axis == x.dim() - 1:
            axis = -1
        else:
            flat, axis = x.flatten(axis), axis
    if node.operator == "Softmax":
        y = torch.softmax(flat, axis)
    elif node.operator == "LogSoftmax":
        y = torch.log_softmax(flat, axis)
    else:
        place = flat.argmax(axis, keepdim=True)
        y = torch.zeros_like(flat).scatter(axis, place, 1.0)
    return y if flat is x else y.reshape(shape)
