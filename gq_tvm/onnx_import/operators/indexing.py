"""Operators that take and put elements by indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gq_tvm.onnx_import.layers import wrapped
from gq_tvm.onnx_import.registry import Node, operator
from gq_tvm.onnx_import.values import Host, Value, tensor_of


@operator("Gather", either=True)
def _gather(node: Node, x: Value, places: Value) -> Tensor:
    data, axis = tensor_of(x), int(node.get("axis", 0))
    axis += data.dim() if axis < 0 else 0
    if isinstance(places, Host) and places.array.ndim == 0 and places.is_constant:
        return data.select(axis, int(places.number()))
    ids = wrapped(tensor_of(places), data.shape[axis])
    flat = data.index_select(axis, ids.reshape(-1))
    return flat.reshape([*data.shape[:axis], *ids.shape, *data.shape[axis + 1 :]])


@operator("GatherElements")
def _gather_elements(node: Node, x: Tensor, places: Tensor) -> Tensor:
    axis = int(node.get("axis", 0))
    axis += x.dim() if axis < 0 else 0
    return torch.gather(x, axis, wrapped(places, x.shape[axis]))


@operator("GatherND")
def _gather_nd(node: Node, x: Tensor, places: Tensor) -> Tensor:
    batch, depth = int(node.get("batch_dims", 0)), places.shape[-1]
    assert isinstance(depth, int)
    index: list[Tensor] = []
    for axis in range(batch):
        form = [1] * (places.dim() - 1)
        form[axis] = x.shape[axis]
        index.append(torch.arange(x.shape[axis]).reshape(form))
    for at in range(depth):
        index.append(wrapped(places[..., at], x.shape[batch + at]))
    return _at(x, index)


def _at(x: Tensor, index: list[Tensor]) -> Tensor:
    """Elements at places along the first axes, these taken as one."""
    flat: Any = 0
    size: Any = 1
    for axis, one in enumerate(index):
        flat = flat * x.shape[axis] + one
        size = size * x.shape[axis]
    rest = x.shape[len(index) :]
    rows = x.reshape([size, *rest]).index_select(0, flat.reshape(-1))
    return rows.reshape([*flat.shape, *rest])


@operator("Scatter", "ScatterElements")
def _scatter_elements(node: Node, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    axis, how = int(node.get("axis", 0)), node.get("reduction", "none")
    ids = wrapped(places, x.shape[axis])
    if how == "none":
        return torch.scatter(x, axis, ids, updates)
    if how == "add":
        return torch.scatter_add(x, axis, ids, updates)
    return torch.scatter_reduce(x, axis, ids, updates, _REDUCED[how])


@operator("ScatterND")
def _scatter_nd(node: Node, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    how, depth = node.get("reduction", "none"), places.shape[-1]
    assert isinstance(depth, int)
    flat: Any = 0
    size: Any = 1
    for axis in range(depth):
        flat = flat * x.shape[axis] + wrapped(places[..., axis], x.shape[axis])
        size = size * x.shape[axis]
    rest = list(x.shape[depth:])
    width: Any = 1
    for one in rest:
        width = width * one
    rows = x.reshape([size, width])
    ids = flat.reshape([-1, 1]).expand(-1, width)
    new = updates.reshape([-1, width])
    if how == "none":
        rows = torch.scatter(rows, 0, ids, new)
    elif how == "add":
        rows = torch.scatter_add(rows, 0, ids, new)
    else:
        rows = torch.scatter_reduce(rows, 0, ids, new, _REDUCED[how])
    return rows.reshape(x.shape)


_REDUCED = {"mul": "prod", "max": "amax", "min": "amin"}


@operator("OneHot", host=(1,))
def _one_hot(node: Node, places: Tensor, depth: Host, values: Tensor) -> Tensor:
    count, axis = depth.number(), int(node.get("axis", -1))
    ids = wrapped(places, count)
    axis += places.dim() + 1 if axis < 0 else 0
    form = [1] * (places.dim() + 1)
    form[axis] = count
    hot = ids.unsqueeze(axis) == torch.arange(count).reshape(form)
    return torch.where(hot, values[1], values[0])
