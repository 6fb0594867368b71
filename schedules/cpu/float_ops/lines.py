"""The rows that one group of a convolution along one axis multiplies, written out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each, ramp
from gq_tvm.schedules.cpu.float_ops.convolution_axis import Axis
from gq_tvm.schedules.family import OPAQUE

Expr = Any

_BLOCK = 16  # rows written side by side, so that they stay in the cache
_TOGETHER = 8  # taps that lie together are copied so; a target with shorter vectors takes several


@dataclass(frozen=True)
class Lines:
    """What is written out.

    Attributes:
        batch: B, or None if it is known only at run time.
        whole: C, the channels of x.
        first: The group's first channel.
        channels: c, the group's.
        frames: The axis T; every tap is within x.
    """

    batch: int | None
    whole: int
    first: int
    channels: int
    frames: Axis


def lines(of: Lines) -> tirx.PrimFunc:
    """Build ``f(x f32 [B, C, T], y f32 [B, T', c, k])``."""
    along = of.frames
    sizes = {"batch": of.batch, "frames": along.size, "frames_out": along.out}
    batch, frames, frames_out = (
        tirx.Var(name, "int64") if size is None else size for name, size in sizes.items()
    )
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("lines")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, of.whole, frames), "float32"))
        y = T.arg("y", T.buffer((batch, frames_out, of.channels, along.taps), "float32"))

        def block(b: Expr, first: Expr, count: Any) -> None:
            with T.grid(of.channels, count) as (c, i):
                begin = T.bind((first + i) * along.stride)
                for tap, lanes in _pieces(along):
                    at = ramp(begin + tap * along.dilation, lanes)
                    T.buffer_store(y, x[b, of.first + c, at], [b, first + i, c, ramp(tap, lanes)])

        with T.sblock("root"), T.serial(0, batch) as b:  # TVM looks for a block
            whole = frames_out // _BLOCK
            each(whole, lambda i: block(b, i * _BLOCK, _BLOCK))
            rest = frames_out - whole * _BLOCK
            if not isinstance(rest, int) or rest:
                block(b, whole * _BLOCK, rest)
    return builder.get()


def _pieces(along: Axis) -> Iterator[tuple[int, int]]:
    """Taps that lie together, by powers of two: the first of each, and how many."""
    first = 0
    while first < along.taps:
        lanes = min(_TOGETHER, 1 << (along.taps - first).bit_length() - 1)
        lanes = lanes if along.dilation == 1 else 1
        yield first, lanes
        first += lanes
