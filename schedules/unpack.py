"""Emit the unpacking of ``layout.TileLayout``: from the vectors of a unit back to indices."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.instruction_sets.base import Expr, InstructionSet
from gq_tvm.schedules.layout import fields


def unpack(isa: InstructionSet, bits: int, vectors: Sequence[Expr], subvector: int) -> Expr:
    """Return the indices of a sub-vector, a byte each; bits above ``bits`` are undefined."""
    index = None
    for field in fields(bits, subvector):
        moved = isa.move_bits(vectors[field.vector], field.shift - field.position)
        if index is None:
            index = moved
            continue
        below = isa.constant_bytes((1 << field.position) - 1)
        above = isa.constant_bytes(0xFF << field.position)
        index = T.bitwise_or(T.bitwise_and(index, below), T.bitwise_and(moved, above))
    return index
