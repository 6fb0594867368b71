"""Emit what a ``Code`` says: from the packed vectors of a unit to bytes a look-up can take."""

from __future__ import annotations

from collections.abc import Sequence

from gq_tvm.schedules.codes import Code
from gq_tvm.schedules.instruction_sets.base import Expr, InstructionSet


def unpack(isa: InstructionSet, code: Code, vectors: Sequence[Expr]) -> Expr:
    """Return the bytes of a sub-vector; bits its look-up does not read are undefined."""
    shifts = {piece.shift for piece in code.pieces}
    late = len(shifts) == 1 and len(code.pieces) > 1  # one shift for all: join first, move once
    joined, covered = None, 0
    for piece in code.pieces:
        part = vectors[piece.vector]
        mask = piece.mask << piece.shift if late else piece.mask
        part = part if late else isa.move_bits(part, piece.shift)
        joined = part if joined is None else isa.join_bits(covered, joined, part)
        covered |= mask
    return isa.move_bits(joined, code.pieces[0].shift) if late else joined
