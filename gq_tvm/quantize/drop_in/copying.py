"""What a user gives as a model, and copies of it.

A model may keep tensors with a gradient, such as its last output, which ``copy.deepcopy`` refuses.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gq_tvm.errors import Error


def check_is_model(verb: str, model: Any) -> None:
    """Refuse what is no module; ``verb`` is who says so."""
    if isinstance(model, Mapping):
        raise Error(
            f"{verb}: got a state_dict or another {type(model).__name__}; make the model, load it "
            "with model.load_state_dict and give that."
        )
    if not isinstance(model, nn.Module):
        raise Error(f"{verb}: the model must be an nn.Module, got {type(model).__name__}.")


def copied(model: nn.Module, verb: str) -> nn.Module:
    """A deep copy; a tensor that was computed, such as a last output, is copied without its past.

    Raises:
        Error: it is no model, or holds what cannot be copied; ``verb`` is who says so.
    """
    check_is_model(verb, model)
    try:
        with _Detaching(), torch.no_grad():
            return copy.deepcopy(model)
    except Exception as failure:
        raise Error(
            f"{verb}: the model cannot be copied ({failure}); take out of it what is neither a "
            "layer nor a tensor."
        ) from failure


class _Detaching(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))
