"""Operators on numbers that are known while a graph is traced: shapes and what becomes of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gq_tvm.onnx_import.limits import check_count
from gq_tvm.onnx_import.registry import Node, on_host
from gq_tvm.onnx_import.values import (
    Host,
    dtype_of,
    host,
    is_symbol,
    numpy_dtype,
    torch_dtype,
)


def _each(function: Callable[..., Any], count: int) -> Any:
    each = np.frompyfunc(function, count, 1)

    def run(*arrays: NDArray) -> Any:
        check_count(*np.broadcast_shapes(*(one.shape for one in arrays)))
        return each(*arrays)

    return run


def _divided(a: Any, b: Any) -> Any:
    """The quotient; of integers, rounded towards zero."""
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    if not is_symbol(a) and not is_symbol(b):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a // b if a >= 0 else -(-a // b)


_MOST_POWER = 64  # of integers, which have 64 bits

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divided,
    "Min": lambda a, b: torch.sym_min(a, b),
    "Max": lambda a, b: torch.sym_max(a, b),
    "Pow": operator.pow,
}
_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
    "Xor": lambda a, b: bool(a) != bool(b),
}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": operator.neg,
    "Abs": lambda a: abs(a) if not is_symbol(a) else torch.sym_max(a, -a),
    "Not": lambda a: not bool(a),
    "Floor": lambda a: float(math.floor(a)) if not is_symbol(a) else torch.sym_float(math.floor(a)),
    "Ceil": lambda a: float(math.ceil(a)) if not is_symbol(a) else torch.sym_float(math.ceil(a)),
    "Sqrt": lambda a: torch.sym_sqrt(a) if is_symbol(a) else (math.sqrt(a) if a >= 0 else math.nan),
}


@on_host(*_BINARY)
def _binary(node: Node, a: Host, *others: Host) -> Any:
    result = a.array
    for b in others:
        if node.operator in ("Div", "Pow"):
            if any(not is_symbol(one) and one == 0 for one in b.array.reshape(-1).tolist()):
                return NotImplemented
            if node.operator == "Pow" and any(
                not is_symbol(one) and one > _MOST_POWER for one in b.numbers()
            ):
                return NotImplemented
            ints = a.dtype != b.dtype or not a.dtype.is_floating_point
            if node.operator == "Pow" and ints and min(b.numbers(), default=0) < 0:
                return NotImplemented
        result = _each(_BINARY[node.operator], 2)(result.astype(object), b.array.astype(object))
    return host(np.asarray(result, object), a.dtype)


@on_host(*_COMPARED)
def _compared(node: Node, a: Host, b: Host) -> Host:
    result = _each(_COMPARED[node.operator], 2)(a.array.astype(object), b.array.astype(object))
    return host(np.asarray(result, object), torch.bool)


@on_host(*_UNARY)
def _unary(node: Node, a: Host) -> Host:
    result = _each(_UNARY[node.operator], 1)(a.array.astype(object))
    return host(np.asarray(result, object), a.dtype)


@on_host("Mod")
def _mod(node: Node, a: Host, b: Host) -> Any:
    if node.get("fmod") or a.dtype.is_floating_point:
        return NotImplemented
    result = _each(operator.mod, 2)(a.array.astype(object), b.array.astype(object))
    return host(np.asarray(result, object), a.dtype)


@on_host("Where")
def _where(node: Node, condition: Host, a: Host, b: Host) -> Host:
    result = _each(lambda c, x, y: x if bool(c) else y, 3)(
        condition.array.astype(object), a.array.astype(object), b.array.astype(object)
    )
    return host(np.asarray(result, object), a.dtype)


@on_host("Cast")
def _cast(node: Node, a: Host) -> Host:
    dtype = torch_dtype(int(node.get("to")))

    def cast(one: Any) -> Any:
        if dtype == torch.bool:
            return bool(one)
        if dtype.is_floating_point:
            return torch.sym_float(one) if is_symbol(one) else float(one)
        if is_symbol(one):
            return torch.sym_int(one)
        return int(one) if math.isfinite(one) else 0

    if a.is_constant:
        with np.errstate(all="ignore"):
            return host(a.array.astype(numpy_dtype(dtype)), dtype)
    return host(np.asarray(_each(cast, 1)(a.array), object), dtype)


@on_host("CastLike")
def _cast_like(node: Node, a: Host, like: Host) -> Any:
    return NotImplemented if a.dtype != like.dtype else a


@on_host("Identity")
def _identity(node: Node, a: Host) -> Host:
    return a


@on_host("Size")
def _size(node: Node, a: Host) -> Host:
    return host(a.array.size)


@on_host("Shape")
def _shape(node: Node, a: Host) -> Host:
    return host(list(a.array.shape)[slice(node.get("start", 0), node.get("end"))])


@on_host("Concat")
def _concat(node: Node, *parts: Host) -> Host:
    arrays = [one.array.astype(object) for one in parts]
    return host(np.concatenate(arrays, int(node.get("axis"))), parts[0].dtype)


@on_host("Gather")
def _gather(node: Node, a: Host, places: Host) -> Any:
    if not places.is_constant:
        return NotImplemented
    taken = np.take(a.array.astype(object), places.array.astype(np.int64), int(node.get("axis", 0)))
    return host(np.asarray(taken, object), a.dtype)


@on_host("Slice")
def _slice(node: Node, a: Host, *given: Host) -> Any:
    if any(one is not None and not one.is_constant for one in given):
        return NotImplemented
    numbers = [None if one is None else one.numbers() for one in given]
    starts, ends, axes, steps = _slice_arguments(node, numbers)
    index: list[Any] = [slice(None)] * a.array.ndim
    for place, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = place + a.array.ndim if place < 0 else place
        index[axis] = python_slice(start, end, step, a.array.shape[axis])
    return host(a.array.astype(object)[tuple(index)], a.dtype)


def _slice_arguments(node: Node, given: list[Any]) -> tuple[Any, Any, Any, Any]:
    if not given:
        starts, ends, axes, steps = node.get("starts"), node.get("ends"), node.get("axes"), None
    else:
        starts, ends, axes, steps = [*given, None, None, None][:4]
    axes = list(range(len(starts))) if axes is None else axes
    return starts, ends, axes, [1] * len(starts) if steps is None else steps


def python_slice(start: int, end: int, step: int, size: int) -> slice:
    """The slice that ONNX means: bounds beyond the axis are its ends."""
    start, end = (one + size if one < 0 else one for one in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, -1), size - 1), min(max(end, -1), size - 1)
    return (
        slice(start if start >= 0 else 0, end if end >= 0 else None, step)
        if start >= 0
        else (slice(0, 0, 1))
    )


@on_host("Unsqueeze")
def _unsqueeze(node: Node, a: Host, axes: Host | None = None) -> Host:
    wanted = node.get("axes") if axes is None else axes.numbers()
    return host(np.expand_dims(a.array, tuple(wanted)), a.dtype)


@on_host("Squeeze")
def _squeeze(node: Node, a: Host, axes: Host | None = None) -> Host:
    wanted = node.get("axes") if axes is None else axes.numbers()
    return host(np.asarray(np.squeeze(a.array, None if wanted is None else tuple(wanted))), a.dtype)


@on_host("Reshape")
def _reshape(node: Node, a: Host, shape: Host | None = None) -> Any:
    wanted = node.get("shape") if shape is None else shape.numbers()
    if any(map(is_symbol, wanted)):
        return NotImplemented
    sizes = [
        a.array.shape[n] if one == 0 and not node.get("allowzero") else one
        for n, one in enumerate(wanted)
    ]
    return host(a.array.reshape(sizes), a.dtype)


@on_host("Transpose")
def _transpose(node: Node, a: Host) -> Host:
    return host(a.array.transpose(node.get("perm")), a.dtype)


def _is_few(sizes: list[int]) -> bool:
    return min(sizes, default=0) >= 0 and prod(sizes) <= 64


@on_host("ConstantOfShape")
def _constant_of_shape(node: Node, shape: Host) -> Any:
    value = node.get("value")
    if not shape.is_constant or len(shape.numbers()) > 2 or not _is_few(shape.numbers()):
        return NotImplemented
    filled = np.full(shape.numbers(), 0.0 if value is None else value.reshape(-1)[0])
    dtype = torch.float32 if value is None else dtype_of(value)
    return host(filled, dtype)


@on_host("Expand")
def _expand(node: Node, a: Host, shape: Host) -> Any:
    if not shape.is_constant or not _is_few(shape.numbers()):
        return NotImplemented
    sizes = np.broadcast_shapes(a.array.shape, tuple(shape.numbers()))
    return host(np.broadcast_to(a.array, sizes), a.dtype)


@on_host("Range")
def _range(node: Node, start: Host, limit: Host, step: Host) -> Any:
    ends = [start.number(), limit.number(), step.number()]
    if any(map(is_symbol, ends)) or start.dtype.is_floating_point or not ends[2]:
        return NotImplemented
    if abs(ends[1] - ends[0]) > 64 * abs(ends[2]):
        return NotImplemented
    return host(np.arange(*ends), start.dtype)


@on_host("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(node: Node, a: Host, axes: Host | None = None) -> Any:
    wanted = node.get("axes") if axes is None else axes.numbers()
    whole = wanted is None or wanted in ([0], [-1])
    if a.array.ndim != 1 or not whole or (not wanted and node.get("noop_with_empty_axes")):
        return NotImplemented
    function = {
        "ReduceProd": operator.mul,
        "ReduceSum": operator.add,
        "ReduceMax": _BINARY["Max"],
        "ReduceMin": _BINARY["Min"],
    }[node.operator]
    numbers = a.numbers()
    if not numbers:
        return NotImplemented
    result = numbers[0]
    for one in numbers[1:]:
        result = function(result, one)
    return host([result] if node.get("keepdims", 1) else result, a.dtype)


@on_host("Split")
def _split(node: Node, a: Host, split: Host | None = None) -> Any:
    sizes = node.get("split") if split is None else split.numbers()
    axis = int(node.get("axis", 0))
    if sizes is None or any(map(is_symbol, sizes)):
        return NotImplemented
    parts = np.split(a.array, np.cumsum(sizes)[:-1], axis)
    return tuple(host(one, a.dtype) for one in parts)


@on_host("ScatterND", "ScatterElements")
def _scatter(node: Node, a: Host, places: Host, updates: Host) -> Any:
    simple = node.get("reduction", "none") == "none" and a.array.ndim == 1 and places.is_constant
    if not simple or (places.array.shape[-1:] != (1,) and node.operator == "ScatterND"):
        return NotImplemented
    result: NDArray = a.array.astype(object)
    for place, value in zip(places.numbers(), updates.numbers(), strict=True):
        result[place] = value
    return host(result, a.dtype)
