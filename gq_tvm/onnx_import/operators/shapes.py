"""Operators that move elements and make tensors of a shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gq_tvm.onnx_import.registry import Node, operator
from gq_tvm.onnx_import.values import (
    Host,
    Value,
    dtype_of,
    from_numpy,
    host,
    is_symbol,
    torch_dtype,
)

_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
_MOST = 2**62


@operator("Shape")
def _shape(node: Node, x: Tensor) -> Host:
    return host(list(x.shape)[slice(node.get("start", 0), node.get("end"))])


@operator("Size")
def _size(node: Node, x: Tensor) -> Host:
    result: Any = 1
    for one in x.shape:
        result = result * one
    return host(result)


@operator("Constant")
def _constant(node: Node) -> Value:
    (kind, value), *_ = node.attributes.items()
    if kind == "value":
        array = value
    elif kind in ("value_int", "value_ints"):
        array = np.array(value, np.int64)
    elif kind in ("value_float", "value_floats"):
        array = np.array(value, np.float32)
    else:
        raise node.refuse("holds texts or a sparse tensor; tensors hold numbers only")
    if array.dtype.kind in "iubf":
        return Host(array, dtype_of(array))
    return from_numpy(array)


@operator("ConstantOfShape", host=(0,))
def _constant_of_shape(node: Node, shape: Host) -> Tensor:
    value = node.get("value")
    array = np.zeros(1, np.float32) if value is None else value.reshape(-1)
    dtype = dtype_of(array)
    return torch.full(shape.numbers(), array[0].item(), dtype=dtype)


@operator("EyeLike")
def _eye_like(node: Node, x: Tensor) -> Tensor:
    dtype = torch_dtype(node.get("dtype")) if node.get("dtype") else x.dtype
    rows, columns = (torch.arange(one) for one in x.shape)
    return (columns[None] - rows[:, None] == node.get("k", 0)).to(dtype)


@operator("Reshape", host=(1,))
def _reshape(node: Node, x: Tensor, shape: Host | None = None) -> Tensor:
    wanted = list(node.get("shape")) if shape is None else shape.numbers()
    if not node.get("allowzero"):
        wanted = [
            x.shape[at] if not is_symbol(one) and one == 0 else one for at, one in enumerate(wanted)
        ]
    return x.reshape(wanted)


@operator("Flatten")
def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = int(node.get("axis", 1))
    axis += x.dim() if axis < 0 else 0
    if axis == 0:
        return x.reshape(1, -1)
    first: Any = 1
    for one in x.shape[:axis]:
        first = first * one
    return x.reshape(first, -1) if axis < x.dim() else x.reshape(-1, 1)


@operator("Transpose")
def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(list(node.get("perm") or range(x.dim())[::-1]))


@operator("Squeeze", host=(1,))
def _squeeze(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    wanted = node.get("axes") if axes is None else axes.numbers()
    if wanted is None:
        wanted = [at for at, one in enumerate(x.shape) if not is_symbol(one) and one == 1]
    for one in sorted((at + x.dim() if at < 0 else at for at in wanted), reverse=True):
        if is_symbol(x.shape[one]) or x.shape[one] == 1:
            x = x.select(one, 0)
        else:
            raise node.refuse(f"takes away axis {one}, which has a size of {x.shape[one]}")
    return x


@operator("Unsqueeze", host=(1,))
def _unsqueeze(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    wanted = node.get("axes") if axes is None else axes.numbers()
    rank = x.dim() + len(wanted)
    for one in sorted(at + rank if at < 0 else at for at in wanted):
        x = x.unsqueeze(one)
    return x


@operator("Concat")
def _concat(node: Node, *parts: Tensor) -> Tensor:
    axis = int(node.get("axis", 1))
    return torch.cat(parts, axis) if len(parts) > 1 else parts[0]


@operator("Split", host=(1,))
def _split(node: Node, x: Tensor, split: Host | None = None) -> Any:
    axis = int(node.get("axis", 0))
    sizes = node.get("split") if split is None else split.numbers()
    count = int(node.get("num_outputs", len(node.outputs)))
    if sizes is None:
        each = (x.shape[axis] + count - 1) // count
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    parts, start = [], 0
    for size in sizes:
        parts.append(x.narrow(axis, start, size))
        start = start + size
    return tuple(parts)


@operator("Slice", host=(1, 2, 3, 4))
def _slice(
    node: Node,
    x: Tensor,
    starts: Host | None = None,
    ends: Host | None = None,
    axes: Host | None = None,
    steps: Host | None = None,
) -> Tensor:
    first = node.get("starts") if starts is None else starts.numbers()
    last = node.get("ends") if ends is None else ends.numbers()
    places = node.get("axes") if axes is None else axes.numbers()
    strides = [1] * len(first) if steps is None else steps.numbers()
    places = range(len(first)) if places is None else places
    for axis, start, end, step in zip(places, first, last, strides, strict=True):
        x = _sliced(x, axis, start, end, step)
    return x


def _sliced(x: Tensor, axis: int, start: Any, end: Any, step: Any) -> Tensor:
    """One axis of a slice; ONNX's bounds count from the end if negative, and may lie beyond."""
    axis += x.dim() if axis < 0 else 0
    if step < 0:
        size = x.shape[axis]
        start = start + size if start < 0 else start
        end = end + size if end < 0 and not _is_least(end) else end
        x = x.flip(axis)
        start, end, step = size - 1 - start, size - 1 - end if not _is_least(end) else size, -step
        start = start if is_symbol(start) else max(start, 0)
    if not is_symbol(end) and end > _MOST:
        end = 9223372036854775807
    index: list[Any] = [slice(None)] * axis + [slice(start, end, step)]
    return x[tuple(index)]


def _is_least(end: Any) -> bool:
    return not is_symbol(end) and end < -(2**30)


@operator("Expand", host=(1,))
def _expand(node: Node, x: Tensor, shape: Host) -> Tensor:
    wanted = shape.numbers()
    sizes = [1] * (len(wanted) - x.dim()) + list(x.shape)
    wanted = [1] * (len(sizes) - len(wanted)) + wanted
    full = [
        own if not is_symbol(one) and one == 1 else one
        for own, one in zip(sizes, wanted, strict=True)
    ]
    return x.expand(full)


@operator("Tile", host=(1,))
def _tile(node: Node, x: Tensor, repeats: Host) -> Tensor:
    return x.repeat(repeats.numbers())


@operator("Pad", host=(1, 2, 3))
def _pad(
    node: Node,
    x: Tensor,
    pads: Host | None = None,
    value: Host | None = None,
    axes: Host | None = None,
) -> Tensor:
    given = (node.get("pads") or node.get("paddings")) if pads is None else pads.numbers()
    mode = node.get("mode", "constant")
    count = len(given) // 2
    places = list(range(count)) if axes is None else [int(one) for one in axes.numbers()]
    both: list[tuple[Any, Any]] = [(0, 0)] * x.dim()
    for at, axis in enumerate(places):
        both[axis] = given[at], given[at + count]
    fill = node.get("value", 0.0) if value is None else value.number()
    if mode == "constant":
        return functional.pad(x, [one for pair in both[::-1] for one in pair], value=fill)
    for axis, pair in enumerate(both):
        if all(not is_symbol(one) and one == 0 for one in pair):
            continue
        cuts = tuple(one if not is_symbol(one) and one < 0 else 0 for one in pair)
        rest = [0 if cut else one for one, cut in zip(pair, cuts, strict=True)]
        if any(cuts):
            x = x.narrow(axis, -cuts[0], x.shape[axis] + cuts[0] + cuts[1])
        x = _padded(x.movedim(axis, -1), rest, _MODES[mode]).movedim(-1, axis)
    return x


def _padded(x: Tensor, pair: list[Any], mode: str) -> Tensor:
    shape = x.shape
    if x.dim() in (2, 3):
        return functional.pad(x, pair, mode=mode)
    count: Any = 1
    for one in shape[:-1]:
        count = count * one
    y = functional.pad(x.reshape(1, count, shape[-1]), pair, mode=mode)
    return y.reshape([*shape[:-1], y.shape[-1]])


@operator("Range", either=True)
def _range(node: Node, start: Value, limit: Value, step: Value) -> Tensor:
    if not all(isinstance(one, Host) for one in (start, limit, step)):
        raise node.refuse("ends where data say so; sizes must be known before a model runs")
    first, last, stride = (one.number() for one in (start, limit, step) if isinstance(one, Host))
    return torch.arange(first, last, stride, dtype=start.dtype)


@operator("Trilu", host=(1,))
def _trilu(node: Node, x: Tensor, k: Host | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k.number())
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@operator("ReverseSequence")
def _reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = int(node.get("time_axis", 0)), int(node.get("batch_axis", 1))
    places = torch.arange(x.shape[time])[:, None]
    places = torch.where(places < lengths, lengths - 1 - places, places)  # [T, B]
    form = [1] * x.dim()
    form[time], form[batch] = x.shape[time], x.shape[batch]
    shaped = (places if time < batch else places.T).reshape(form)
    return x.gather(time, shaped.expand(x.shape).long())
