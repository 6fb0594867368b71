"""The dtype an operator computes in, which PyTorch brings its operands to by itself.

TVM's converters promote two tensors, but not a tensor and a number (``x / 2`` of integers would be
an integer), nor the operand of a function of floats, nor integers that are summed. Half precision
is summed in float32, and bools, of which TVM knows no order and no sum, are numbers meanwhile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from gq_tvm.frontend.places import name_of

_COMPARED = {"eq", "ne", "lt", "le", "gt", "ge"}
_PROMOTED = {"floor_divide", "rsub", "prelu", "hardswish", "__and__", "__or__", "__xor__"}
_SUMMED = {"sum", "prod", "cumsum", "cumprod", "mean", "var", "std", "linalg_vector_norm"}
_SUMMED |= {"mm", "bmm", "matmul", "addmm", "baddbmm", "linear", "convolution"}
_ORDERED = {"max", "min", "amax", "amin", "argmax", "argmin"}
_SORTED = {"sort", "argsort", "topk", "median"}
_HALVES = (torch.float16, torch.bfloat16)
_TINY = (torch.bool, torch.uint8, torch.int8, torch.int16)  # no kernel of TVM's sorts them
_MASK = {"where": 0, "masked_fill": 1}  # the operand that is a mask, and keeps its dtype


def operands_to_cast(node: fx.Node) -> dict[fx.Node, torch.dtype]:
    """The operands of an operator that are not of the dtype it computes in, and that dtype."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    name = name_of(node).partition(".")[0]
    operands = [
        one
        for number, one in enumerate(node.args)
        if isinstance(one, fx.Node) and _is_tensor(one) and number != _MASK.get(name)
    ]
    dtype = _computed_in(name, node, operands)
    if dtype is None:
        return {}
    return {one: dtype for one in operands if one.meta["val"].dtype != dtype}


def _computed_in(name: str, node: fx.Node, operands: list[fx.Node]) -> torch.dtype | None:
    result = node.meta.get("val")
    operand = operands[0].meta["val"].dtype if operands else None
    if name in _ORDERED and operand is torch.bool:
        return torch.int8
    if name in _SORTED and operand in _TINY:
        return torch.int32
    if not isinstance(result, torch.Tensor) or result.dtype.is_complex:
        return None
    if name in _COMPARED:
        values: Any = [
            one.meta["val"] if isinstance(one, fx.Node) else one for one in node.args[:2]
        ]
        common = torch.result_type(*values)
        return torch.int8 if common is torch.bool else common
    if name in _SUMMED:
        return torch.float32 if result.dtype in _HALVES else result.dtype
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()) and name not in _PROMOTED:
        return None
    if result.dtype is not torch.bool:
        return result.dtype
    arithmetic = name in ("add", "sub", "mul", "maximum", "minimum", "neg", "abs", "sign", "relu")
    return torch.int8 if arithmetic else None


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)
