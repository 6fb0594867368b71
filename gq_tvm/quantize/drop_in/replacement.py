"""A layer in the place of one of PyTorch's, and an instance of the class it replaces.

A layer becomes another by changing its class, so its attributes, hooks and all references to it
stay. Where it was of a subclass of PyTorch's layer, it becomes of a class made of that and of ours:
``super().forward`` in the subclass is ours then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

_MADE: dict[tuple[Any, Any], type[Replacement]] = {}


def factors_of(attribute: str) -> str:
    """The buffer for the factors in front of a weight; "" where there can be none."""
    found = re.fullmatch(r"weight(?:_ih(?:_l0(_reverse)?)?)?", attribute)
    return f"input_scale{found[1] or ''}" if found else ""


def scaled_input(layer: nn.Module, x: Tensor, attribute: str = "weight") -> Tensor:
    """The input of a weight, times the factors that ``compress`` may have put before it.

    They are a buffer, f32 [K], of a convolution [C]; see ``factors_of``.
    """
    scale = getattr(layer, factors_of(attribute), None)
    if scale is None:
        return x
    axes = len(layer.kernel_size) if isinstance(layer, nn.Conv1d | nn.Conv2d) else 0
    return x * scale.reshape(-1, *[1] * axes)


class Replacement(nn.Module):
    """Base of the layers that ``prepare`` and ``convert`` put in the place of others."""

    #: What the layer was: PyTorch's class, or a subclass of it.
    replaced: ClassVar[type[nn.Module]]
    #: Our part of a class that is made for a subclass; None: the class is no made one.
    ours: ClassVar[type[Replacement] | None] = None
    #: How the rows that its weights meet are rounded, as ``ops.checks.ACTIVATIONS`` has it; in a
    #: stack whose layers differ, those of its first weight.
    activation: str
    _activations: Mapping[str, str] = MappingProxyType({})  # by weight, where layers differ

    def meet(self, activation: str | Mapping[str, str]) -> None:
        """Round rows so, for all weights or for each by its name."""
        vars(self).pop("_activations", None)
        if isinstance(activation, str):
            self.activation = activation
            return
        self.activation = next(iter(activation.values()), "fp32")
        if len(set(activation.values())) > 1:
            self._activations = dict(activation)

    def activation_of(self, name: str) -> str:
        """How the rows that the named weight meets are rounded."""
        return self._activations.get(name, self.activation)

    def shown_activation(self) -> str:
        """For ``print``."""
        return f"activation={self._activations or self.activation}"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Made classes have no name to pickle them by: they are made again."""
        made: Any = super().__reduce_ex__(2)
        return _empty, (self.ours or type(self), self.replaced), *made[2:]


def become(layer: nn.Module, ours: type[Replacement]) -> None:
    """Change a layer's class to ``ours``, or to one made of ``ours`` and the layer's own."""
    replaced = layer.replaced if isinstance(layer, Replacement) else type(layer)
    layer.__class__ = joined(ours, replaced)


def joined(ours: type[Replacement], kind: type[nn.Module]) -> type[Replacement]:
    """``ours`` for layers of class ``kind``.

    Raises:
        TypeError: ``kind`` has bases in an order that leaves no place for ours.
    """
    if kind is ours.replaced:
        return ours
    if (ours, kind) not in _MADE:
        name = ours.__name__.removesuffix(ours.replaced.__name__) + kind.__name__
        # With our module's name: by it an exported program tells that a layer is one of ours.
        own = {"__module__": ours.__module__, "replaced": kind, "ours": ours}
        _MADE[ours, kind] = type(name, (kind, ours), own)
    return _MADE[ours, kind]


def _empty(ours: type[Replacement], kind: type[nn.Module]) -> Replacement:
    made = joined(ours, kind)
    return made.__new__(made)
