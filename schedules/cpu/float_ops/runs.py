"""Runs of memory laid one behind the other: what concatenations, stacks and slices often are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.float_ops.rows import Row
from gq_tvm.schedules.cpu.vector_math import VectorMath
from gq_tvm.schedules.family import OPAQUE

Expr = Any


@dataclass(frozen=True)
class Run:
    """Elements of one source that lie together.

    Attributes:
        size: Elements of the source; None is known only at run time.
        first: The first element taken, None where the run is the last ``length`` of the source.
        length: Elements taken, None for all from ``first`` on.
    """

    size: int | None
    first: int | None
    length: int | None


def join_runs(lanes: int, runs: Sequence[Run]) -> tirx.PrimFunc:
    """Build ``f(source f32 [size] of each run, y f32 [sum of the lengths])``."""
    sizes = [tirx.Var("size", "int64") if run.size is None else run.size for run in runs]
    lengths = [
        size - (run.first or 0) if run.length is None else run.length
        for run, size in zip(runs, sizes, strict=True)
    ]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("join")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE})
        sources = [T.arg("x", T.buffer((size,), "float32")) for size in sizes]
        y = T.arg("y", T.buffer((sum(lengths[1:], lengths[0]),), "float32"))
        with T.sblock("root"):  # TVM looks for one in functions of a single input
            behind: Expr = 0
            for run, source, length in zip(runs, sources, lengths, strict=True):
                first = source.shape[0] - length if run.first is None else run.first

                def copy(
                    _: VectorMath, at: Expr, x: Expr = source, move: Expr = first, to: Expr = behind
                ) -> None:
                    T.buffer_store(y, x[at + move], [at + to])

                Row(lanes, length).map(copy)
                behind = behind + length
    return builder.get()
