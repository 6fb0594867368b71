"""The rows a convolution along two axes multiplies, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.float_ops.convolution_axis import Axis
from gq_tvm.schedules.family import OPAQUE

Expr = Any

_BLOCK = 16  # rows written side by side, so that they stay in the cache


@dataclass(frozen=True)
class Unfolding:
    """What is unfolded.

    Attributes:
        batch: B, or None if it is known only at run time.
        channels: C.
        rows: The axis H.
        columns: The axis W.
    """

    batch: int | None
    channels: int
    rows: Axis
    columns: Axis


def unfold(of: Unfolding) -> tirx.PrimFunc:
    """Build ``f(x f32 [B, C, H, W], y f32 [B, H', W', C, h, w])``, zeros outside of x."""
    down, across = of.rows, of.columns
    sizes = {"batch": of.batch, "height": down.size, "width": across.size}
    sizes |= {"height_out": down.out, "width_out": across.out}
    batch, height, width, height_out, width_out = (
        tirx.Var(name, "int64") if size is None else size for name, size in sizes.items()
    )
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("unfold")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, of.channels, height, width), "float32"))
        shape = (batch, height_out, width_out, of.channels, down.taps, across.taps)
        y = T.arg("y", T.buffer(shape, "float32"))

        def line(b: Expr, row: Expr, first: Expr, count: Any, c: Expr, tap: Expr) -> None:
            """Emit the taps of a line of the kernel, of some outputs of a row."""
            source = T.bind(row * down.stride + tap * down.dilation - down.left)
            begin = T.bind(first * across.stride - across.left)
            reach = (across.taps - 1) * across.dilation
            last = begin + (count - 1) * across.stride + reach
            there = T.bind(tirx.all(source >= 0, source < height))

            def taps(checked: bool) -> None:
                with T.serial(0, count) as i:
                    for j in range(across.taps):
                        at = begin + i * across.stride + j * across.dilation
                        inside = tirx.all(there, at >= 0, at < width) if checked else None
                        value = x[b, c, source, at]
                        if inside is not None:
                            value = T.if_then_else(inside, value, T.float32(0))
                        T.buffer_store(y, value, [b, row, first + i, c, tap, j])

            with T.If(tirx.all(there, begin >= 0, last < width)):
                with T.Then():
                    taps(checked=False)
                with T.Else():
                    taps(checked=True)

        def block(b: Expr, row: Expr, first: Expr, count: Any) -> None:
            with T.grid(of.channels, down.taps) as (c, tap):
                line(b, row, first, count, c, tap)

        with T.sblock("root"), T.grid(batch, height_out) as (b, row):  # TVM looks for a block
            whole = width_out // _BLOCK
            each(whole, lambda i: block(b, row, i * _BLOCK, _BLOCK))
            rest = width_out - whole * _BLOCK
            if not isinstance(rest, int) or rest:
                block(b, row, whole * _BLOCK, rest)
    return builder.get()
