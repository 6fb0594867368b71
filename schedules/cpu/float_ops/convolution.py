"""Convolutions and transposed convolutions of one or two axes, in any groups, over [B, C, H, W].

A block of the input is copied with its padding to where every tap of a block of outputs is a vector
at a fixed offset. Inputs that a stride keeps apart lie in *slots* of their own, so this holds for
every stride and dilation; rows lie behind one another, and vectors run on from one row into the
next, over the few places between that no output is for. What is multiplied so is a product of
matrices whose right side, the unfolded input, is never written down.

A transposed convolution of stride s is s convolutions (*phases*), each with every s-th tap, whose
outputs lie s apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.float_ops.convolution_axis import Axis, Phase, Places
from gq_tvm.schedules.cpu.float_ops.rows import Row
from gq_tvm.schedules.cpu.float_ops.tile import multiply, span, tile_vectors
from gq_tvm.schedules.cpu.vector_math import VectorMath
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Buffer = Any

_BLOCK = 1 << 16  # floats of the copied input
_COLUMNS = 256  # of a block
_PLACES = 512  # of a block: outputs, and what lies between their rows
_OUTPUTS = 32  # channels whose results are kept until the block is done
_HEIGHT = 6  # outputs of a tile: with its vectors, three quarters of the registers
_MOST_VECTORS = 8  # of a tile of few outputs


@dataclass(frozen=True)
class Convolution:
    """A convolution.

    Attributes:
        batch: B, or None.
        channels: C.
        outputs: N.
        groups: A divisor of both.
        rows: The axis H.
        columns: The axis W.
        transposed: Whether it is a transposed one.
        activation: One of ``vector_math.FUNCTIONS``, or "".
    """

    batch: int | None
    channels: int
    outputs: int
    groups: int
    rows: Axis
    columns: Axis
    transposed: bool = False
    activation: str = ""


def convolution(lanes: int, registers: int, of: Convolution) -> tirx.PrimFunc:
    """Build ``f(x f32 [B, C, H, W], weight, bias f32 [N], y f32 [B, N, H', W'])``.

    The weight is f32 [N, C / groups, h, w], or [C, N / groups, h, w] of a transposed convolution,
    as PyTorch has it.

    Args:
        lanes: 32-bit lanes of a vector.
        registers: Vector registers.
        of: Its shape.
    """
    return _Kernel(lanes, registers, of).build()


def _balanced(size: int, most: int) -> int:
    """The size of equal parts of at most ``most``."""
    parts = -(-size // most)
    return -(-size // parts)


class _Kernel:
    def __init__(self, lanes: int, registers: int, of: Convolution) -> None:
        self.lanes, self.of = lanes, of
        self.rows, self.columns = (Places(one, of.transposed) for one in (of.rows, of.columns))
        self.group_channels = of.channels // of.groups
        self.group_outputs = of.outputs // of.groups
        self.height = min(_HEIGHT, self.group_outputs)
        most = min(_MOST_VECTORS, tile_vectors(registers) * _HEIGHT // self.height)
        self._choose_block()
        most = min(most, -(-self.places // lanes))
        self.vectors = min(range(1, most + 1), key=lambda one: (self._cost(one), -one))

    def _choose_block(self) -> None:
        """How many rows and columns of places are computed at once."""
        rows, columns = self.rows, self.columns
        known_rows = None if self.of.rows.out is None else rows.places(self.of.rows.out)
        wide = self.of.columns.out
        most = _COLUMNS if wide is None else columns.places(wide)
        depth = self.group_channels * rows.slots * columns.slots
        block = max(64, min(_COLUMNS, _BLOCK // depth // (1 + rows.reach)))
        self.block_columns = _balanced(most, block)
        width = self.block_columns + columns.reach
        fits = min(_BLOCK // depth // width - rows.reach, _PLACES // width)
        self.block_rows = max(1, fits)
        if known_rows is not None:
            self.block_rows = _balanced(known_rows, self.block_rows)
        self.plane = (self.block_rows + rows.reach) * width
        self.places = (self.block_rows - 1) * width + self.block_columns

    def _cost(self, vectors: int) -> float:
        """Of a block in tiles of so many vectors; what is left goes in single ones, which wait."""
        whole, rest = divmod(-(-self.places // self.lanes), vectors)
        busy = vectors * self.height
        return (whole * max(busy, 8) / self.height) + rest * max(self.height, 8) / self.height

    def build(self) -> tirx.PrimFunc:
        of, rows, columns = self.of, self.of.rows, self.of.columns
        sizes = {"batch": of.batch, "height": rows.size, "width": columns.size}
        sizes |= {"height_out": rows.out, "width_out": columns.out}
        batch, height, width, self.height_out, self.width_out = (
            tirx.Var(name, "int64") if size is None else size for name, size in sizes.items()
        )
        shape = (of.outputs, self.group_channels)
        if of.transposed:
            shape = (of.channels, self.group_outputs)
        kept = min(_OUTPUTS, self.group_outputs)
        over = self.vectors * self.lanes  # what vectors read and write behind the last place
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("conv_transpose" if of.transposed else "conv")
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            self.x = T.arg("x", T.buffer((batch, of.channels, height, width), "float32"))
            taps = rows.taps, columns.taps
            self.weight = T.arg("weight", T.buffer((*shape, *taps), "float32"))
            self.bias = T.arg("bias", T.buffer((of.outputs,), "float32"))
            out = (batch, of.outputs, self.height_out, self.width_out)
            self.y = T.arg("y", T.buffer(out, "float32"))
            depth = self.group_channels * self.rows.slots * self.columns.slots
            self.copied = T.alloc_buffer((depth * self.plane + over,), "float32")
            self.results = T.alloc_buffer((kept, self.places + over), "float32")
            row_places = self.rows.places(self.height_out)
            column_places = self.columns.places(self.width_out)
            with (
                T.serial(0, batch) as b,
                T.serial(0, _ceildiv(row_places, self.block_rows)) as i,
                T.serial(0, _ceildiv(column_places, self.block_columns)) as j,
                T.serial(0, of.groups) as group,
            ):
                row, column = i * self.block_rows, j * self.block_columns
                self._block(
                    b,
                    group,
                    T.bind(row),
                    T.bind(column),
                    _fewer(self.block_rows, row_places, row),
                    _fewer(self.block_columns, column_places, column),
                )
        return builder.get()

    def _block(
        self, b: Expr, group: Expr, row: Expr, column: Expr, rows: Any, columns: Any
    ) -> None:
        """Emit a group's outputs at ``rows`` x ``columns`` places from a place on."""
        width = columns + self.columns.reach
        self._copy(b, group, row, column, rows + self.rows.reach, width)
        places = (rows - 1) * width + columns
        whole, rest = divmod(self.group_outputs, _OUTPUTS)

        def phase(*phases: Phase) -> None:
            def outputs(first: Expr, count: int) -> None:
                self._products(group, first, count, phases, places, width)
                self._store(b, group, first, count, phases, (row, column), (rows, columns), width)

            each(whole, lambda n: outputs(n * _OUTPUTS, _OUTPUTS))
            if rest:
                outputs(whole * _OUTPUTS, rest)

        self.rows.each_phase(
            lambda down: self.columns.each_phase(lambda across: phase(down, across))
        )

    def _copy(self, b: Expr, group: Expr, row: Expr, column: Expr, rows: Any, width: Any) -> None:
        """Emit the copy of a block's input, zeros where there is none."""
        _, _, height, frames = self.x.shape
        with T.serial(0, self.group_channels) as c:
            channel = T.bind(group * self.group_channels + c)

            def slots(slot_h: Expr, slot_w: Expr) -> None:
                slot = slot_h * self.columns.slots + slot_w
                plane = T.bind((c * self._slots + slot) * self.plane)
                start = T.bind(self.columns.input(column, slot_w))
                above = T.bind(self.rows.input(row, slot_h))
                top, bottom = _there(above, self.rows.skip, height, rows)
                left, right = _there(start, self.columns.skip, frames, width)
                self._zeros(plane, top * width)
                with T.serial(0, bottom - top) as i:
                    r = T.bind(top + i)
                    to = T.bind(plane + r * width)
                    line = b, channel, above + r * self.rows.skip
                    self._zeros(to, left)
                    self._run(to + left, right - left, line, start + left * self.columns.skip)
                    self._zeros(to + right, width - right)
                self._zeros(plane + bottom * width, (rows - bottom) * width)

            each(self.rows.slots, lambda h: each(self.columns.slots, lambda w: slots(h, w)))

    @property
    def _slots(self) -> int:
        return self.rows.slots * self.columns.slots

    def _zeros(self, to: Expr, count: Any) -> None:
        Row(self.lanes, count).map(
            lambda math, at: T.buffer_store(self.copied, math.constant(0.0), [_shifted(at, to)])
        )

    def _run(self, to: Expr, count: Any, line: tuple[Expr, ...], start: Expr) -> None:
        """Emit the copy of what is there of a row."""
        skip = self.columns.skip
        if skip == 1:
            Row(self.lanes, count).map(
                lambda math, at: T.buffer_store(
                    self.copied, self.x[(*line, at + start)], [_shifted(at, to)]
                )
            )
            return
        with T.serial(0, count) as i:
            T.buffer_store(self.copied, self.x[(*line, start + i * skip)], [to + i])

    def _products(
        self,
        group: Expr,
        first: Expr,
        count: int,
        phases: tuple[Phase, ...],
        places: Any,
        width: Any,
    ) -> None:
        """Emit the sums of ``count`` outputs at all places of the block into ``results``."""
        down, across = phases
        depth = (self.group_channels, down.count, across.count)

        def weight(output: Expr, c: Expr, i: Expr, j: Expr) -> Expr:
            taps = down.first + i * down.step, across.first + j * across.step
            if self.of.transposed:
                return self.weight[(group * self.group_channels + c, output, *taps)]
            return self.weight[(group * self.group_outputs + output, c, *taps)]

        def value(place: Expr, c: Expr, i: Expr, j: Expr) -> Expr:
            (slot_h, row), (slot_w, column) = down.place(i), across.place(j)
            slot = slot_h * self.columns.slots + slot_w
            return (c * self._slots + slot) * self.plane + row * width + column + place

        def tile(output: Expr, height: int, place: Expr, vectors: int) -> None:
            bias = self.bias
            multiply(
                self.lanes,
                height,
                vectors,
                depth,
                left=lambda r, *k: weight(first + output + r, *k),
                right=lambda v, *k: self.copied[span(value(place, *k), v, self.lanes)],
                start=lambda r, v: VectorMath(self.lanes).spread(
                    bias[group * self.group_outputs + first + output + r]
                ),
                store=lambda r, v, sums: T.buffer_store(
                    self.results, sums, [output + r, span(place, v, self.lanes)]
                ),
            )

        def strip(place: Expr, vectors: int) -> None:
            steps, rest = divmod(count, self.height)
            each(steps, lambda i: tile(i * self.height, self.height, place, vectors))
            if rest:
                tile(steps * self.height, rest, place, vectors)

        size = self.vectors * self.lanes
        whole = places // size
        each(whole, lambda i: strip(i * size, self.vectors))
        behind = whole * size
        if self.vectors > 1:
            each(
                _ceildiv(places - behind, self.lanes),
                lambda i: strip(behind + i * self.lanes, 1),
            )
        else:
            each(_ceildiv(places - behind, size), lambda i: strip(behind, 1))

    def _store(
        self,
        b: Expr,
        group: Expr,
        first: Expr,
        count: int,
        phases: tuple[Phase, ...],
        at: tuple[Expr, Expr],
        sizes: tuple[Any, Any],
        width: Any,
    ) -> None:
        """Emit the outputs at the places of a block from ``results``."""
        (down, across), (row, column), (rows, columns) = phases, at, sizes
        activation = self.of.activation

        def value(math: VectorMath, o: Expr, r: Expr, at: Expr) -> Expr:
            return math.function(activation)(self.results[o, _shifted(at, r * width)])

        with T.serial(0, count) as o, T.serial(0, rows) as r:
            output = group * self.group_outputs + first + o
            to = T.bind(self.rows.output(row + r, down))
            if not self.of.transposed:
                Row(self.lanes, columns).map(
                    lambda math, at: T.buffer_store(
                        self.y, value(math, o, r, at), [b, output, to, at + column]
                    )
                )
                return
            spacing = self.columns.spacing
            start = T.bind(self.columns.output(column, across))
            low, high = _there(start, spacing, self.width_out, columns)
            there = tirx.all(to >= 0, to < self.height_out)
            with T.If(there), T.Then(), T.serial(0, high - low) as i:
                at = low + i
                one = value(VectorMath(1), o, r, at)
                T.buffer_store(self.y, one, [b, output, to, start + at * spacing])


def _ceildiv(a: Any, b: int) -> Any:
    return -(-a // b) if isinstance(a, int) else tirx.ceildiv(a, b)


def _fewer(most: int, size: Any, first: Expr) -> Any:
    """How many of ``most`` are there behind ``first``, of ``size`` in all."""
    if isinstance(size, int) and size % most == 0:
        return most
    return T.bind(T.min(most, size - first))


def _shifted(at: Expr, by: Expr) -> Expr:
    """The indices ``at + by``, a ramp where they are several: TVM sees how far one reaches."""
    return T.ramp(at.base + by, 1, at.lanes) if isinstance(at, tirx.Ramp) else at + by


def _there(start: Expr, step: int, size: Any, most: Any) -> tuple[Expr, Expr]:
    """The first i, and that behind the last, of ``most`` with ``start + i * step`` in [0, size)."""

    def within(i: Expr) -> Expr:
        return T.max(T.min(i, most), 0)

    first = T.bind(within(tirx.ceildiv(0 - start, step)))
    return first, T.bind(T.max(within(tirx.ceildiv(size - start, step)), first))
