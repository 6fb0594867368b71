"""Staging of rows that stay fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu import emit

Expr = Any


class FloatRows:
    """fp32 activations, copied only where the kernel would read past the end of a row."""

    def __init__(self, k: int, padded_k: int, lanes: int) -> None:
        self.k = k
        self.padded_k = padded_k
        self.lanes = lanes

    def begin(self, rows: int) -> None:
        """Allocate the rows and clear their padding."""
        self.buffer = T.alloc_buffer((rows, self.padded_k), "float32")
        if self.padded_k > self.k:
            with T.serial(0, rows) as slot:
                for k in range(self.k, self.padded_k):
                    T.buffer_store(self.buffer, T.float32(0), [slot, k])

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        """Copy a row into slot ``slot``."""
        whole, rest = divmod(self.k, self.lanes)
        if whole:
            with T.serial(0, whole) as i:
                at = i * self.lanes
                to = [slot, emit.ramp(at, self.lanes)]
                T.buffer_store(self.buffer, load(at, self.lanes), to)
        for i in range(rest):
            at = T.int32(whole * self.lanes + i)
            T.buffer_store(self.buffer, load(at, 1), [slot, at])
