"""What a ``gq.unfold`` reads, as kernels know it."""

from __future__ import annotations

from typing import Any

from tvm import relax

from gq_tvm.passes.operators import attributes, axes_of, known, shape_of
from gq_tvm.schedules.windows import Axis, Windows


def windows_of(call: relax.Call) -> tuple[Windows, list[Any], list[Any]]:
    """The windows of a ``gq.unfold``, and the shapes [B, C, H, W] and [B, H', W', K].

    A convolution along one axis has an H of 1.
    """
    at, axes = attributes(call), axes_of(call)
    x, out = shape_of(call.args[0]), shape_of(call)
    missing = [1] * (2 - len(axes))
    sizes = [
        Axis(known(size), known(size_out), one["taps"], one["stride"], one["dilation"], one["left"])
        for size, size_out, one in zip(x[2:], out[1:-1], axes, strict=True)
    ]
    rows, columns = [Axis(1, 1) for _ in missing] + sizes
    below, right = [0 for _ in missing] + [one["right"] for one in axes]
    of = Windows(known(x[0]), x[1], at["first"], at["channels"], rows, columns, below, right)
    return of, [*x[:2], *missing, *x[2:]], [out[0], *missing, *out[1:]]
