"""Resize and Upsample: one axis after the other, by indices and weights."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from gq_tvm.onnx_import.registry import Node, operator
from gq_tvm.onnx_import.values import Host, is_symbol

_LARGEST_DENOMINATOR = 4096

# From the place of an output to that in the input: (place, scale, size before, size behind).
_COORDINATES: dict[str, Callable[[Tensor, Any, Any, Any], Tensor]] = {
    "half_pixel": lambda at, scale, old, new: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, scale, old, new: (
        (at + 0.5) / scale - 0.5 if is_symbol(new) or new > 1 else at * 0.0
    ),
    "half_pixel_symmetric": lambda at, scale, old, new: (
        (old / 2) * (1 - new / (scale * old)) + (at + 0.5) / scale - 0.5
    ),
    "asymmetric": lambda at, scale, old, new: at / scale,
    "align_corners": lambda at, scale, old, new: (
        at * (old - 1) / (new - 1) if is_symbol(new) or new > 1 else at * 0.0
    ),
}
_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@operator("Resize", host=(1, 2, 3))
def _resize(
    node: Node,
    x: Tensor,
    roi: Host | None = None,
    scales: Host | None = None,
    sizes: Host | None = None,
) -> Tensor:
    if node.version < 11:
        return _each_axis(node, x, roi.numbers() if roi else None, None, "asymmetric", "floor")
    for name, plain in (("antialias", 0), ("exclude_outside", 0)):
        if node.get(name, plain) != plain:
            raise node.refuse(f"has {name}={node.get(name)}, which is not computed here")
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("keeps the ratio of its axes; give it scales")
    return _each_axis(
        node,
        x,
        scales.numbers() if scales is not None and scales.array.size else None,
        sizes.numbers() if sizes is not None and sizes.array.size else None,
        node.get("coordinate_transformation_mode", "half_pixel"),
        node.get("nearest_mode", "round_prefer_floor"),
    )


@operator("Upsample", host=(1,))
def _upsample(node: Node, x: Tensor, scales: Host | None = None) -> Tensor:
    given = node.get("scales") if scales is None else scales.numbers()
    return _each_axis(node, x, given, None, "asymmetric", "floor")


def _each_axis(
    node: Node, x: Tensor, scales: Any, sizes: Any, coordinates: str, nearest: str
) -> Tensor:
    if coordinates not in _COORDINATES:
        raise node.refuse(f"maps coordinates by {coordinates}, which is not computed here")
    given = scales if scales is not None else sizes
    axes = node.get("axes") or list(range(x.dim() - len(given), x.dim()))
    for at, axis in enumerate(axes):
        old = x.shape[axis]
        new = _scaled(old, scales[at]) if scales is not None else sizes[at]
        same = scales[at] == 1 if scales is not None else not is_symbol(new) and new == old
        if same:
            continue
        scale = scales[at] if scales is not None else new / old
        x = _axis(node, x, axis, new, scale, coordinates, nearest)
    return x


def _scaled(size: Any, scale: Any) -> Any:
    """``floor(size * scale)`` in integers where the scale is a ratio of small ones."""
    if is_symbol(scale):
        return torch.sym_int(size * scale)
    ratio = Fraction(scale).limit_denominator(_LARGEST_DENOMINATOR)
    if abs(float(ratio) - scale) <= 1e-7 * abs(scale):
        return size * ratio.numerator // ratio.denominator
    return int(size * scale) if not is_symbol(size) else torch.sym_int(size * scale)


def _axis(
    node: Node, x: Tensor, axis: int, new: Any, scale: Any, coordinates: str, nearest: str
) -> Tensor:
    old, mode = x.shape[axis], node.get("mode", "nearest")
    if mode == "nearest" and not is_symbol(scale) and float(scale).is_integer():
        half = coordinates.endswith("half_pixel") and nearest.startswith("round")
        if half or (coordinates == "asymmetric" and nearest == "floor"):
            return _repeated(x, axis, int(scale))
    places = torch.arange(new, dtype=torch.float32)
    if not is_symbol(scale):
        scale = float(torch.tensor(scale, dtype=torch.float32))
    at = _COORDINATES[coordinates](places, scale, old, new)
    last = old - 1
    if mode == "nearest":
        return x.index_select(axis, _NEAREST[nearest](at).long().clamp(0, last))
    below = torch.floor(at)
    part = at - below
    form = [1] * x.dim()
    form[axis] = new

    def taken(offset: int) -> Tensor:
        return x.index_select(axis, (below.long() + offset).clamp(0, last))

    if mode in ("linear", "bilinear"):
        weight = part.reshape(form)
        return taken(0) * (1 - weight) + taken(1) * weight
    if mode != "cubic":
        raise node.refuse(f"has mode {mode}, which is not computed here")
    total = None
    for offset, weight in zip(range(-1, 3), _cubic(part, node), strict=True):
        one = taken(offset) * weight.reshape(form)
        total = one if total is None else total + one
    assert total is not None
    return total


def _repeated(x: Tensor, axis: int, times: int) -> Tensor:
    shape = list(x.shape)
    axis += x.dim() if axis < 0 else 0
    wide = x.unsqueeze(axis + 1).expand([*shape[: axis + 1], times, *shape[axis + 1 :]])
    shape[axis] = shape[axis] * times
    return wide.reshape(shape)


def _cubic(part: Tensor, node: Node) -> list[Tensor]:
    """The weights of four neighbours (Keys, IEEE ASSP 29(6), 1981, equation 15)."""
    a = node.get("cubic_coeff_a", -0.75)

    def near(t: Tensor) -> Tensor:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return [far(part + 1), near(part), near(1 - part), far(2 - part)]
