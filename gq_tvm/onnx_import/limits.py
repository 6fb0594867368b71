"""How large a tensor may be while a graph is read: sizes in a file are believed up to there."""

from __future__ import annotations

import functools
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gq_tvm.errors import Error
from gq_tvm.onnx_import.registry import Node

MOST = 1 << 30  # bytes of a tensor; scores of attention over 1500 frames take 360 MB [C]
MOST_FOLDED = 1 << 26  # bytes of a constant that is computed
_ELEMENT = 8  # bytes, of the widest


class TooLarge(Error):
    """What would be computed is too large to be believed."""

    def __init__(self, amount: str, node: Node | None = None) -> None:
        text = f"would make {amount}, more than is believed of a file"
        super().__init__(str(node.refuse(text)) if node else text)
        self._amount, self._node = amount, node

    def of(self, node: Node) -> TooLarge:
        """The refusal of a node, unless it is one already."""
        return self if self._node else TooLarge(self._amount, node)


def check_count(*sizes: int) -> None:
    """Refuse an array that is computed and has more elements than a constant may.

    Raises:
        TooLarge: it has.
    """
    if prod(sizes) > MOST_FOLDED // _ELEMENT:
        raise TooLarge(f"{prod(sizes):,} elements")


class Limited(TorchDispatchMode):
    """Refuses what would make a tensor of too many bytes, before it does.

    Each operator is asked for its result on tensors without memory first; one that cannot tell
    makes nothing larger than what it is given.

    Args:
        most: Bytes of a tensor.
    """

    def __init__(self, most: int = MOST) -> None:
        super().__init__()
        self._most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, if its results are small enough."""
        kwargs = kwargs or {}
        size = 0 if self._is_small(func, args) else _bytes(func, args, kwargs)
        if size > self._most:
            raise TooLarge(f"a tensor of {size:,} bytes")
        return func(*args, **kwargs)

    def _is_small(self, func: Any, args: Any) -> bool:
        """Whether it needs not be asked: no result has more elements than all pairs of its own."""
        if not _is_of_tensors(func):
            return False
        return _ELEMENT * prod(one.numel() for one in args if isinstance(one, Tensor)) <= self._most


@functools.cache
def _is_of_tensors(func: Any) -> bool:
    """Whether an operator takes tensors and numbers that are no sizes."""
    return all(str(one.type) in _NO_SIZES for one in func._schema.arguments)


_NO_SIZES = {"Tensor", "Optional[Tensor]", "number", "Optional[number]", "float", "bool"}


def _bytes(func: Any, args: Any, kwargs: Any) -> int:
    """The most bytes that a result of an operator has in memory."""
    given = dict(kwargs)
    if any(one.name == "device" for one in func._schema.arguments):
        given["device"] = "meta"
    try:
        results = func(*_pytree.tree_map(_empty, args), **_pytree.tree_map(_empty, given))
    except Exception:  # of many classes: it hangs on data, or is wrong and says so when it runs
        return 0
    tensors = [one for one in _pytree.tree_leaves(results) if isinstance(one, Tensor)]
    return max((one.untyped_storage().nbytes() for one in tensors if one.is_meta), default=0)


def _empty(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
