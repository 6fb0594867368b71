"""Reductions, sums along an axis, and what sorts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gq_tvm.onnx_import.registry import Node, operator
from gq_tvm.onnx_import.values import Host

_REDUCED: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep),
}


def axes_of(node: Node, axes: Host | None, rank: int) -> list[int] | None:
    """The axes of a reduction, as an attribute or an input; None to do nothing."""
    wanted = node.get("axes") if axes is None else axes.numbers()
    if not wanted:
        return None if node.get("noop_with_empty_axes") else list(range(rank))
    return [one + rank if one < 0 else one for one in wanted]


@operator(*_REDUCED, host=(1,))
def _reduce(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    wanted = axes_of(node, axes, x.dim())
    if wanted is None:  # what is done to each element stays
        return _REDUCED[node.operator](x.unsqueeze(-1), [x.dim()], False)
    if not wanted:
        return _REDUCED[node.operator](x.unsqueeze(0), [0], False)
    result = _REDUCED[node.operator](x, wanted, bool(node.get("keepdims", 1)))
    return result if result.dtype == x.dtype else result.to(x.dtype)


@operator("ReduceProd", host=(1,))
def _reduce_prod(node: Node, x: Tensor, axes: Host | None = None) -> Tensor:
    keep = bool(node.get("keepdims", 1))
    for axis in sorted(axes_of(node, axes, x.dim()) or [], reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


@operator("ArgMax", "ArgMin")
def _arg(node: Node, x: Tensor) -> Tensor:
    axis, keep = int(node.get("axis", 0)), bool(node.get("keepdims", 1))
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    if node.get("select_last_index", 0):
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
    return function(x, axis, keep)


@operator("CumSum", host=(1,))
def _cum_sum(node: Node, x: Tensor, axis: Host) -> Tensor:
    place = int(axis.number())
    backward, dtype = node.get("reverse", 0), x.dtype
    x = x.flip(place) if backward else x
    y = torch.cumsum(x, place, dtype=dtype)
    y = y - x if node.get("exclusive", 0) else y
    return y.flip(place) if backward else y


@operator("TopK", host=(1,))
def _top_k(node: Node, x: Tensor, count: Host | None = None) -> Any:
    k = node.get("k") if count is None else count.number()
    largest = bool(node.get("largest", 1))
    axis = int(node.get("axis", -1))
    # Of equals ONNX takes the first; a stable sort does.
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)
