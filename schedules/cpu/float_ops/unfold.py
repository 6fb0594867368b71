"""The rows that a convolution multiplies, or one group of it, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each, ramp
from gq_tvm.schedules.cpu.float_ops.convolution_axis import Axis
from gq_tvm.schedules.cpu.float_ops.transposition import in_squares, turned
from gq_tvm.schedules.family import OPAQUE

Expr = Any


@dataclass(frozen=True)
class Unfolding:
    """What is written out.

    Attributes:
        batch: B, or None if it is known only at run time.
        whole: C, the channels of x.
        first: The group's first channel.
        channels: c, the group's.
        rows: The axis H; of a convolution along one axis, one of size 1.
        columns: The axis W.
        right: Zeros behind the columns.
    """

    batch: int | None
    whole: int
    first: int
    channels: int
    rows: Axis
    columns: Axis
    right: int


def unfold(lanes: int, of: Unfolding) -> tirx.PrimFunc:
    """Build ``f(x f32 [B, C, H, W], y f32 [B, H', W', c * h * w])``, zeros outside of x.

    The places of a tap lie together in x, the taps of a place in y: a square of both is turned.
    """
    down, across = of.rows, of.columns
    width = of.channels * down.taps * across.taps
    sizes = {"batch": of.batch, "height": down.size, "width": across.size}
    sizes |= {"height_out": down.out, "width_out": across.out}
    batch, height, columns, height_out, columns_out = (
        tirx.Var(name, "int64") if size is None else size for name, size in sizes.items()
    )
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("unfold")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, of.whole, height, columns), "float32"))
        y = T.arg("y", T.buffer((batch, height_out, columns_out, width), "float32"))

        def line(b: Expr, row: Expr) -> None:
            def taps(place: Expr, at: Expr, lanes: int, checked: bool) -> Expr:
                """Those at a place of some rows of y, of as many places in a row."""
                line, number = tirx.floordiv(at, across.taps), tirx.floormod(at, across.taps)
                channel, tap = tirx.floordiv(line, down.taps), tirx.floormod(line, down.taps)
                source = T.bind(row * down.stride + tap * down.dilation - down.left)
                begin = T.bind(place * across.stride + number * across.dilation - across.left)
                index = begin if lanes == 1 else T.ramp(begin, across.stride, lanes)
                there = []
                if down != Axis(1, 1):
                    there += [source >= 0, source < height]
                if checked:
                    there += [begin >= 0, begin < columns]
                value = x[b, channel + of.first, source, index]
                zero = T.float32(0) if lanes == 1 else T.broadcast(T.float32(0), lanes)
                return T.bind(T.if_then_else(tirx.all(*there), value, zero) if there else value)

            def inside(place: Expr, at: Expr, lanes: int) -> None:
                vectors = turned([taps(place, at + i, lanes, False) for i in range(lanes)])
                for i, vector in enumerate(vectors):
                    T.buffer_store(y, vector, [b, row, place + i, ramp(at, lanes)])

            def at_an_edge(place: Expr, at: Expr, lanes: int) -> None:
                def one(i: Expr, j: Expr) -> None:
                    T.buffer_store(y, taps(place + i, at + j, 1, True), [b, row, place + i, at + j])

                each(lanes, lambda i: each(lanes, lambda j: one(i, j)))

            def square(place: Expr, at: Expr, lanes: int) -> None:
                if not of.right and not across.left:
                    inside(place, at, lanes)
                    return
                reach = (lanes - 1) * across.stride + (across.taps - 1) * across.dilation
                begin = place * across.stride - across.left
                with T.If(tirx.all(begin >= 0, begin + reach < columns)):
                    with T.Then():
                        inside(place, at, lanes)
                    with T.Else():
                        at_an_edge(place, at, lanes)

            in_squares(lanes, columns_out, width, square)

        with T.sblock("root"), T.grid(batch, height_out) as (b, row):  # TVM looks for a block
            line(b, row)
    return builder.get()
