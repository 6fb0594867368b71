"""Layers whose weight lies the other way round, as the linear layers they are.

A quantiser wants a weight of [outputs, inputs]. transformers' ``Conv1D``, of which GPT-2 is made,
keeps it as [inputs, outputs].
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

# By module and name: a class that is not there must not be imported to be known.
_LINEAR = {("transformers.pytorch_utils", "Conv1D")}


def turned_class(kind: type[nn.Module]) -> type[nn.Linear] | None:
    """What layers of a class become; None: their weight lies as it should."""
    return nn.Linear if (kind.__module__, kind.__name__) in _LINEAR else None


def turned_weight(weight: Tensor) -> Tensor:
    """The weight as the class it becomes has it, [N, K]."""
    return weight.T.contiguous()


def turn(layer: Any, kind: type[nn.Linear], weight: nn.Parameter) -> None:
    """Let a layer be of the class it becomes, with the weight turned."""
    layer.__class__ = kind
    layer.weight = weight
    layer.out_features, layer.in_features = weight.shape
