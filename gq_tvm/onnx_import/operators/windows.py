"""Windows that slide over axes: what convolutions and pools have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gq_tvm.onnx_import.registry import Node


@dataclass(frozen=True)
class Window:
    """A window.

    Attributes:
        size: Along each axis, as the three below.
        strides: Of its steps.
        dilations: Of its taps.
        begins: Padding before.
        ends: Padding behind.
        automatic: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``: the last two take the
            padding from the input's sizes.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    automatic: str

    @classmethod
    def of(cls, node: Node, size: Sequence[int]) -> Window:
        """The window of a node."""
        axes = len(size)
        pads = list(node.get("pads") or [0] * (2 * axes))
        automatic = node.get("auto_pad", "NOTSET") or "NOTSET"
        if automatic == "VALID":
            pads = [0] * (2 * axes)
        return cls(
            tuple(int(one) for one in size),
            tuple(node.get("strides") or [1] * axes),
            tuple(node.get("dilations") or [1] * axes),
            tuple(pads[:axes]),
            tuple(pads[axes:]),
            automatic,
        )

    def symmetric(self) -> tuple[int, ...] | None:
        """The padding, if it is the same on both sides whatever the input's sizes."""
        if self.automatic.startswith("SAME"):
            return None
        equal = self.begins == self.ends and min(self.begins, default=0) >= 0
        return self.begins if equal else None

    def pads(self, sizes: Sequence[Any]) -> list[tuple[Any, Any]]:
        """The padding before and behind along each axis of an input of these sizes."""
        if not self.automatic.startswith("SAME"):
            return list(zip(self.begins, self.ends, strict=True))
        found = []
        for axis, size in enumerate(sizes):
            stride = self.strides[axis]
            reach = self.dilations[axis] * (self.size[axis] - 1) + 1
            whole = ((size + stride - 1) // stride - 1) * stride + reach - size
            whole = max(whole, 0) if isinstance(whole, int) else _not_negative(whole)
            less = whole // 2
            more = whole - less
            found.append((less, more) if self.automatic == "SAME_UPPER" else (more, less))
        return found

    def pads_of(self, sizes: Sequence[Any]) -> list[Any]:
        """The same as ``functional.pad`` takes it: the last axis first."""
        return [one for pair in reversed(self.pads(sizes)) for one in pair]


def _not_negative(size: Any) -> Any:
    import torch

    return torch.sym_max(size, 0)
