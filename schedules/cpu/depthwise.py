"""Depthwise Conv1d over frames of channels [B, T, C], vectors lying across the channels.

A channel's taps are packed n bits each into words of 32, so that a vector of words holds the same
taps of neighbouring channels: shift and mask bring a tap's indices, a gather its centroids. They
are decoded once a call for a strip of channels, then all frames pass by. Arithmetic is fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.ops.weight import Weight
from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.outliers import RowOutliers
from gq_tvm.schedules.cpu.vector_math import VectorMath
from gq_tvm.schedules.family import OPAQUE, Product

Expr = Any
Buffer = Any

NAME = "depthwise"  # what the table of layers calls this kernel

_WORD = 32  # bits
_FRAMES = 4  # of a tile, in a strip of _VECTORS
_VECTORS = 2


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution; sizes that are None are known only at run time.

    Attributes:
        product: The weight [C, k].
        stride: Frames between outputs.
        left: Zero frames before the first.
        dilation: Frames between taps.
        activation: One of ``vector_math.FUNCTIONS``, or "".
        batch: B.
        frames: T.
        frames_out: T'.
    """

    product: Product
    stride: int
    left: int
    dilation: int
    activation: str
    batch: int | None
    frames: int | None
    frames_out: int | None

    @property
    def channels(self) -> int:
        """C."""
        return self.product.n

    @property
    def taps(self) -> int:
        """The taps of a channel."""
        return self.product.k

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return self.product.bits

    @property
    def tables(self) -> int:
        """Tables of the kernel: 1, one for each group of taps, or one for each channel."""
        if self.product.tables > 1:
            return self.channels
        return self.product.tables or self.product.groups

    @property
    def words(self) -> int:
        """Words a channel's taps are packed in."""
        return -(-self.taps * self.bits // _WORD)


def pack(weight: Weight) -> dict[str, NDArray]:
    """Operands: weights i32 [words, C], table f32 [T * 2^bits], scale and zero [J, C].

    Tap p of a channel is in its words from bit p * bits on. T is 1, or the tables of J groups of
    taps, or of C channels. Without zero points there is no ``zero``. Behind them come the operands
    of `RowOutliers`.

    Args:
        weight: [C, 1, k].
    """
    channels, taps = weight.rows, weight.width
    indices = weight.indices.reshape(channels, taps, 1)
    codes = np.unpackbits(indices, axis=2, count=weight.bits, bitorder="little")
    streams = codes.reshape(channels, -1)
    streams = np.pad(streams, ((0, 0), (0, -streams.shape[1] % _WORD)))
    words = np.packbits(streams, axis=1, bitorder="little").view("<u4").view(np.int32)
    table = weight.codebook
    if table.ndim == 2 and len(table) > 1:
        table = table[weight.tables()[:, 0]]
    scale, zero = weight.kept()
    operands = {
        "weights": words.T,
        "table": table.reshape(-1),
        "scale": scale.T,
        "zero": None if zero is None else zero.T,
    }
    made = {name: np.ascontiguousarray(a) for name, a in operands.items() if a is not None}
    return made | RowOutliers.operands(weight)


def depthwise(lanes: int, of: Depthwise) -> tirx.PrimFunc:
    """Build ``f(x f32 [B, T, C], the operands, bias f32 [C], y f32 [B, T', C])``."""
    batch, frames, frames_out = (
        tirx.Var(name, "int64") if size is None else size
        for name, size in (
            ("batch", of.batch),
            ("frames", of.frames),
            ("frames_out", of.frames_out),
        )
    )
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("depthwise_conv1d")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        x = T.arg("x", T.buffer((batch, frames, of.channels), "float32"))
        weights = T.arg("weights", T.buffer((of.words, of.channels), "int32"))
        table = T.arg("table", T.buffer((of.tables * 2**of.bits,), "float32"))
        scales = (of.product.groups, of.channels)
        scale = T.arg("scale", T.buffer(scales, of.product.scale_type))
        zero = T.arg("zero", T.buffer(scales, of.product.zero_type)) if of.product.zero else None
        outliers = RowOutliers(of.product) if of.product.outliers else None
        bias = T.arg("bias", T.buffer((of.channels,), "float32"))
        y = T.arg("y", T.buffer((batch, frames_out, of.channels), "float32"))

        def strips(first: int, vectors: int, width: int) -> int:
            """Emit the strips that fit behind channel ``first``; return the channel behind them."""
            buffers = x, weights, table, scale, zero, bias, y
            strip = _Strip(of, width, vectors, buffers, outliers)
            size = vectors * width
            count = (of.channels - first) // size
            each(count, lambda i: strip.emit(first + i * size))
            return first + count * size

        strips(strips(strips(0, _VECTORS, lanes), 1, lanes), 1, 1)
    return builder.get()


class _Strip:
    """A strip of channels through all frames."""

    def __init__(
        self,
        of: Depthwise,
        lanes: int,
        vectors: int,
        buffers: tuple[Buffer, ...],
        outliers: RowOutliers | None,
    ) -> None:
        self.of, self.lanes, self.vectors, self.outliers = of, lanes, vectors, outliers
        self.x, self.weights, self.table, self.scale, self.zero, self.bias, self.y = buffers
        self.math = VectorMath(lanes)
        self.activation = self.math.function(of.activation)

    def emit(self, first: Expr) -> None:
        """Emit the channels from ``first`` on."""
        batch, frames_out, _ = self.y.shape
        self.kernel = T.alloc_buffer((self.of.taps, self.vectors * self.lanes), "float32")
        for tap in range(self.of.taps):
            for v in range(self.vectors):
                T.buffer_store(self.kernel, self._decoded(first, v, tap), [tap, self._span(0, v)])
        if self.outliers is not None:
            with T.serial(0, self.vectors * self.lanes) as channel:
                self.outliers.add(first + channel, self.kernel, lambda tap: [tap, channel])
        with T.serial(0, batch) as b:
            tiles = frames_out // _FRAMES
            with T.serial(0, tiles) as i:
                t = T.bind(i * _FRAMES)
                source = T.bind(t * self.of.stride - self.of.left)
                reach = (_FRAMES - 1) * self.of.stride + (self.of.taps - 1) * self.of.dilation
                inside = tirx.all(source >= 0, source + reach < self.x.shape[1])
                with T.If(inside):
                    with T.Then():
                        self._inside(first, b, t, source)
                    with T.Else(), T.serial(0, _FRAMES) as f:
                        self._clipped(first, b, t + f)
            with T.serial(0, frames_out - tiles * _FRAMES) as f:
                self._clipped(first, b, tiles * _FRAMES + f)

    def _span(self, first: Expr, v: int) -> Expr:
        at = first + v * self.lanes
        return at if self.lanes == 1 else T.ramp(at, 1, self.lanes)

    def _decoded(self, first: Expr, v: int, tap: int) -> Expr:
        """The weights of a tap, a channel a lane."""
        of, spread = self.of, self.math.spread
        word, shift = divmod(tap * of.bits, _WORD)
        channel = self._span(first, v)
        # Arithmetic shifts smear the sign over bits that the mask takes away.
        index = T.shift_right(self.weights[word, channel], spread(T.int32(shift)))
        if shift + of.bits > _WORD:
            high = self.weights[word + 1, channel]
            low = (1 << (_WORD - shift)) - 1
            index = T.bitwise_or(
                T.bitwise_and(index, spread(T.int32(low))),
                T.shift_left(high, spread(T.int32(_WORD - shift))),
            )
        index = T.bitwise_and(index, spread(T.int32(2**of.bits - 1)))
        group = tap // of.product.group if of.product.group else 0
        if of.product.tables > 1:
            index = index + self._span(T.Cast("int32", first), v) * spread(T.int32(2**of.bits))
        elif group and of.product.tables == 0:
            index = index + spread(T.int32(group * 2**of.bits))
        value = self.table[index]
        if self.zero is not None:
            value = value - self.math.widened(self.zero[group, channel], of.product.zero_type)
        return value * self.math.widened(self.scale[group, channel], of.product.scale_type)

    def _sums(self, first: Expr, frames: int) -> list[list[Buffer]]:
        """Small buffers [frame][vector], which LLVM keeps in registers, holding the bias."""
        made = []
        for _ in range(frames):
            vectors = [T.alloc_buffer((self.lanes,), "float32") for _ in range(self.vectors)]
            for v, sums in enumerate(vectors):
                T.buffer_store(sums, self.bias[self._span(first, v)], [self._span(0, 0)])
            made.append(vectors)
        return made

    def _add(self, sums: Buffer, weight: Expr, value: Expr) -> None:
        T.buffer_store(sums, sums[self._span(0, 0)] + weight * value, [self._span(0, 0)])

    def _store(self, sums: Buffer, first: Expr, b: Expr, t: Expr, v: int) -> None:
        value = self.activation(sums[self._span(0, 0)])
        T.buffer_store(self.y, value, [b, t, self._span(first, v)])

    def _inside(self, first: Expr, b: Expr, t: Expr, source: Expr) -> None:
        """Several frames all of whose taps are there."""
        of = self.of
        sums = self._sums(first, _FRAMES)
        with T.serial(0, of.taps) as tap:
            weights = [T.bind(self.kernel[tap, self._span(0, v)]) for v in range(self.vectors)]
            for f in range(_FRAMES):
                for v, weight in enumerate(weights):
                    at = source + f * of.stride + tap * of.dilation
                    self._add(sums[f][v], weight, self.x[b, at, self._span(first, v)])
        for f in range(_FRAMES):
            for v in range(self.vectors):
                self._store(sums[f][v], first, b, t + f, v)

    def _clipped(self, first: Expr, b: Expr, t: Expr) -> None:
        """A frame some of whose taps may lie outside."""
        of = self.of
        source = T.bind(t * of.stride - of.left)
        frames = self.x.shape[1]
        # Taps from the first at or behind frame 0 to the last before the end.
        low = T.bind(T.min(T.max(tirx.ceildiv(0 - source, of.dilation), 0), of.taps))
        high = T.bind(T.max(T.min(tirx.ceildiv(frames - source, of.dilation), of.taps), low))
        (sums,) = self._sums(first, 1)
        with T.serial(0, high - low) as i:
            tap = T.bind(low + i)
            for v in range(self.vectors):
                value = self.x[b, source + tap * of.dilation, self._span(first, v)]
                self._add(sums[v], self.kernel[tap, self._span(0, v)], value)
        for v in range(self.vectors):
            self._store(sums[v], first, b, t, v)
