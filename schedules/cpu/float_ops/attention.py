"""Scaled dot product attention in one kernel, heads read where the projections left them.

Frames lie across the lanes: a block of queries is transposed once, scores are kept as ``[key,
frame]``, and so the softmax needs no reduction across a vector. Keys pass by in blocks, the maximum
and the sum of each frame carried along (the online softmax of Milakov and Gimelshein, 2018,
arXiv:1805.02867), so that the scratch has a fixed size whatever the number of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import each
from gq_tvm.schedules.cpu.float_ops.tile import ROWS, in_tiles, multiply, span, tile_vectors
from gq_tvm.schedules.cpu.vector_math import VectorMath
from gq_tvm.schedules.family import OPAQUE

Expr = Any
Buffer = Any

_KEYS = 64  # of a block
_LOWEST = float(np.finfo(np.float32).min)
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Attention:
    """The shape of an attention; sizes that are None are known only at run time.

    Attributes:
        batch: B, sequences.
        frames: T, queries of a sequence.
        keys: S, keys of a sequence.
        heads: N.
        width: D, elements of a query and a key.
        values: E, elements of a value.
        scale: What scores are multiplied by.
        causal: Frame t sees the keys up to t only.
        mask: None, or which of the mask's leading axes [B, N, T] are there (else they are 1).
    """

    batch: int | None
    frames: int | None
    keys: int | None
    heads: int
    width: int
    values: int
    scale: float
    causal: bool = False
    mask: tuple[bool, bool, bool] | None = None


def attention(lanes: int, registers: int, of: Attention) -> tirx.PrimFunc:
    """Build ``f(q, k, v, [mask], y)``.

    Shapes, f32: q [B, T, N, D], k [B, S, N, D], v [B, S, N, E], mask [B or 1, N or 1, T or 1, S]
    (added to the scaled scores), y [B, T, N, E].

    A frame whose keys are all masked by minus infinity gives zeros, as PyTorch's does. NaN comes
    through.
    """
    return _Kernel(lanes, registers, of).build()


class _Kernel:
    def __init__(self, lanes: int, registers: int, of: Attention) -> None:
        self.lanes, self.registers, self.of = lanes, registers, of
        self.math = VectorMath(lanes)
        self.vectors = tile_vectors(registers)  # of frames in a block
        if of.frames is not None:
            self.vectors = max(1, min(self.vectors, of.frames // lanes))
        self.key_block = _KEYS if of.keys is None else max(1, min(_KEYS, of.keys))

    def build(self) -> tirx.PrimFunc:
        of = self.of
        batch, frames, keys = (
            tirx.Var(name, "int64") if size is None else size
            for name, size in (("batch", of.batch), ("frames", of.frames), ("keys", of.keys))
        )
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("attention")
            T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
            self.q = T.arg("q", T.buffer((batch, frames, of.heads, of.width), "float32"))
            self.k = T.arg("k", T.buffer((batch, keys, of.heads, of.width), "float32"))
            self.v = T.arg("v", T.buffer((batch, keys, of.heads, of.values), "float32"))
            if of.mask is not None:
                leading = zip((batch, of.heads, frames), of.mask, strict=True)
                shape = (*(size if there else 1 for size, there in leading), keys)
                self.mask = T.arg("mask", T.buffer(shape, "float32"))
            self.y = T.arg("y", T.buffer((batch, frames, of.heads, of.values), "float32"))
            most = self.vectors * self.lanes
            self.queries = T.alloc_buffer((of.width, most), "float32")
            self.scores = T.alloc_buffer((self.key_block, most), "float32")
            self.sums = T.alloc_buffer((most, of.values), "float32")
            self.peak = T.alloc_buffer((most,), "float32")
            self.total = T.alloc_buffer((most,), "float32")
            self.shrink = T.alloc_buffer((most,), "float32")
            with T.grid(batch, of.heads) as (b, n):
                large = frames // most
                each(large, lambda i: self._frames(b, n, i * most, most, keys))
                self.vectors = 1  # what is left goes vector by vector
                begin = large * most

                def small(i: Expr) -> None:
                    first = begin + i * self.lanes
                    self._frames(b, n, first, _rest(frames, first, self.lanes), keys)

                each(_ceildiv(frames - begin, self.lanes), small)
        return builder.get()

    def _frames(self, b: Expr, n: Expr, first: Expr, count: Any, keys: Any) -> None:
        """Emit a block of frames of one head; ``count`` of them are there."""
        of, block = self.of, self.vectors * self.lanes
        for v in range(self.vectors):
            T.buffer_store(self.peak, self.math.constant(_LOWEST), [span(0, v, self.lanes)])
            T.buffer_store(self.total, self.math.constant(0.0), [span(0, v, self.lanes)])
        with T.grid(block, of.values) as (t, e):
            T.buffer_store(self.sums, T.float32(0), [t, e])
        if not isinstance(count, int) or count < block:
            with T.grid(of.width, block) as (d, t):  # lanes that stand for no frame
                T.buffer_store(self.queries, T.float32(0), [d, t])
        with T.grid(count, of.width) as (t, d):
            scaled = self.q[b, first + t, n, d] * T.float32(of.scale)
            T.buffer_store(self.queries, scaled, [d, t])
        each(
            _ceildiv(keys, self.key_block),
            lambda i: self._keys(b, n, first, i * self.key_block, count, keys),
        )
        with T.serial(0, count) as t:
            # No key at all, or none unmasked: zero over the smallest number is zero.
            inverse = T.bind(
                T.float32(1)
                / T.call_llvm_pure_intrin(
                    "float32", "llvm.maximum.f32", self.total[t], T.float32(_SMALLEST)
                )
            )
            with T.serial(0, of.values) as e:
                T.buffer_store(self.y, self.sums[t, e] * inverse, [b, first + t, n, e])

    def _keys(self, b: Expr, n: Expr, first: Expr, key: Expr, frames: Any, keys: Any) -> None:
        """Emit the share of a block of keys in a block of frames."""
        lanes, math = self.lanes, self.math
        count = _rest(keys, key, self.key_block)
        if self.of.mask is not None and self.of.mask[2]:
            self._masks(b, n, first, key, count, frames)
        self._scores(b, n, first, key, count)
        for v in range(self.vectors):
            at = span(0, v, lanes)
            top, total = (T.alloc_buffer((lanes,), "float32") for _ in range(2))
            every = T.ramp(0, 1, lanes)
            T.buffer_store(top, self.peak[at], [every])
            with T.serial(0, count) as s:
                T.buffer_store(top, math.maximum(top[every], self.scores[s, at]), [every])
            T.buffer_store(self.shrink, math.exp(self.peak[at] - top[every]), [at])
            T.buffer_store(total, self.total[at] * self.shrink[at], [every])
            with T.serial(0, count) as s:
                power = T.bind(math.exp(self.scores[s, at] - top[every]))
                T.buffer_store(self.scores, power, [s, at])
                T.buffer_store(total, total[every] + power, [every])
            T.buffer_store(self.peak, top[every], [at])
            T.buffer_store(self.total, total[every], [at])

        def tile(t: Expr, rows: int, column: Expr, vectors: int, lanes: int) -> None:
            spread = VectorMath(lanes).spread
            multiply(
                lanes,
                rows,
                vectors,
                count,
                left=lambda r, s: self.scores[s, t + r],
                right=lambda v, s: self.v[b, key + s, n, span(column, v, lanes)],
                start=lambda r, v: (
                    self.sums[t + r, span(column, v, lanes)] * spread(self.shrink[t + r])
                ),
                store=lambda r, v, value: T.buffer_store(
                    self.sums, value, [t + r, span(column, v, lanes)]
                ),
            )

        in_tiles(lanes, self.registers, frames, self.of.values, tile)

    def _scores(self, b: Expr, n: Expr, first: Expr, key: Expr, count: Any) -> None:
        """Emit ``scores[s, t] = k[s] q[t] + mask``; a mask of frames is in the scores already."""
        lanes = self.lanes

        def store(s: Expr, v: int, value: Expr) -> None:
            if self.of.mask is not None and self.of.mask[2]:
                value = value + self.scores[s, span(0, v, lanes)]
            elif self.of.mask is not None:
                value = value + self.math.spread(self._mask(b, n, 0, key + s))
            if self.of.causal:
                seen = T.ramp(T.Cast("int32", first) + v * lanes, 1, lanes) >= T.broadcast(
                    T.Cast("int32", key + s), lanes
                )
                value = tirx.Select(seen, T.bind(value), self.math.constant(-float("inf")))
            T.buffer_store(self.scores, value, [s, span(0, v, lanes)])

        def rows(s: Expr, height: int) -> None:
            multiply(
                lanes,
                height,
                self.vectors,
                self.of.width,
                left=lambda r, d: self.k[b, key + s + r, n, d],
                right=lambda v, d: self.queries[d, span(0, v, lanes)],
                store=lambda r, v, value: store(s + r, v, value),
            )

        steps = count // ROWS
        each(steps, lambda i: rows(i * ROWS, ROWS))
        each(count - steps * ROWS, lambda i: rows(steps * ROWS + i, 1))

    def _masks(self, b: Expr, n: Expr, first: Expr, key: Expr, count: Any, frames: Any) -> None:
        """Emit ``scores[s, t] = mask``, zero for lanes that stand for no frame."""
        every = self.vectors * self.lanes
        if not isinstance(frames, int) or frames < every:
            with T.serial(0, count) as s:
                for v in range(self.vectors):
                    at = span(0, v, self.lanes)
                    T.buffer_store(self.scores, self.math.constant(0.0), [s, at])
        with T.grid(frames, count) as (t, s):
            T.buffer_store(self.scores, self._mask(b, n, first + t, key + s), [s, t])

    def _mask(self, b: Expr, n: Expr, frame: Expr, key: Expr) -> Expr:
        assert self.of.mask is not None
        at = zip((b, n, frame), self.of.mask, strict=True)
        return self.mask[(*(axis if there else 0 for axis, there in at), key)]


def _ceildiv(size: Any, by: int) -> Any:
    return -(-size // by) if isinstance(size, int) else tirx.ceildiv(size, by)


def _rest(size: Any, first: Expr, most: int) -> Any:
    """How many of ``size`` elements are in the block of ``most`` that begins at ``first``."""
    if isinstance(size, int) and size % most == 0:
        return most
    return T.bind(T.min(T.Cast("int64", most), size - T.Cast("int64", first)))
