"""Layers that are one of the supported kinds but for how their weight lies.

A quantiser wants a weight of [outputs, inputs, ...]. transformers' ``Conv1D``, of which GPT-2 is
made, keeps that of a linear layer as [inputs, outputs]; a transposed convolution is a convolution
with outputs for each phase (``subpixel.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gq_tvm.quantize.drop_in import subpixel


@dataclass(frozen=True)
class Turning:
    """How layers of a class become of another.

    Attributes:
        kind: The class they become.
        values: The parameters they have there, of a layer and its weight: by attribute.
        become: Changes the class of a layer that has these parameters, and what goes with it.
        obstacle: Why a layer is none of that kind; None: it is one.
    """

    kind: type[nn.Module]
    values: Callable[[Any, Tensor], dict[str, Tensor]]
    become: Callable[[Any], None]
    obstacle: Callable[[Any], str | None] = lambda _: None


def _linear(layer: Any) -> None:
    layer.__class__ = nn.Linear
    layer.out_features, layer.in_features = layer.weight.shape


# By module and name: a class that is not there must not be imported to be known.
_TURNINGS = {
    ("transformers.pytorch_utils", "Conv1D"): Turning(
        nn.Linear, lambda _, weight: {"weight": weight.T.contiguous()}, _linear
    ),
    (nn.ConvTranspose1d.__module__, "ConvTranspose1d"): Turning(
        subpixel.SubpixelConv1d, subpixel.values, subpixel.become, subpixel.obstacle
    ),
}


def turning(layer: nn.Module, kind: type[nn.Module]) -> Turning | None:
    """How a layer of a class turns; None: its weight lies as it should, or see ``why_not``."""
    found = _TURNINGS.get((kind.__module__, kind.__name__))
    return None if found is None or found.obstacle(layer) else found


def why_not(layer: nn.Module, kind: type[nn.Module]) -> str | None:
    """Why a layer of a class does not turn where others of the class do."""
    found = _TURNINGS.get((kind.__module__, kind.__name__))
    return None if found is None else found.obstacle(layer)
