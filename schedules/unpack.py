"""Emit the unpacking of ``layout.TileLayout``: from the vectors of a unit back to indices."""

from __future__ import annotations

from collections.abc import Sequence

from gq_tvm.schedules.instruction_sets.base import Expr, InstructionSet
from gq_tvm.schedules.layout import fields


def unpack(isa: InstructionSet, bits: int, vectors: Sequence[Expr], subvector: int) -> Expr:
    """Return the indices of a sub-vector, a byte each; bits above ``bits`` are undefined."""
    index = None
    for field in fields(bits, subvector):
        moved = isa.move_bits(vectors[field.vector], field.shift - field.position)
        index = moved if index is None else isa.join_bits(field.position, index, moved)
    return index
