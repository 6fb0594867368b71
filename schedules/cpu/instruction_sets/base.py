"""What a kernel needs from a vector instruction set.

A vector is a TIR expression of ``vector_bytes`` bytes. Kernels are written once against this
interface; an instruction set says how to move bits inside bytes, how to look bytes up in a
register table and how to take int8 dot products. Everything else (loads, stores, fp32
arithmetic) LLVM does well from plain vector expressions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.codes import Code, planes

Expr = Any  # a TIR expression; TVM's own classes are not typed for mypy
Loader = Callable[[int, int], Expr]  # load(offset, lanes): part of the table operand
Gather = Callable[[Expr], Expr]  # gather(int32 indices): elements of the table operand


def typed(vector: Expr, dtype: str, lanes: int) -> Expr:
    """Return the same bits seen as ``lanes`` elements of ``dtype``."""
    return T.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", vector)


class Lanes:
    """What loops have to know of a machine; by itself one without vectors.

    Attributes:
        vector_bytes: Bytes of a vector register.
        rounds: Whether an instruction rounds floats to whole numbers.
        halves: Whether one widens floats of 16 bits.
    """

    vector_bytes: int = 4
    rounds: bool = False
    halves: bool = False

    @property
    def lanes(self) -> int:
        """32-bit lanes of a vector."""
        return self.vector_bytes // 4


class InstructionSet(Lanes, ABC):
    """The primitives of one vector instruction set.

    Attributes:
        name: As ``Target.instruction_set`` names it.
        tile_vectors: Output vectors of a tile, where nothing was measured.
        tile_rows: Rows of activations such a tile can take at once without spilling
            accumulators, for int8 and for fp32 products.
        centroid_offset: Added to int8 centroids, so that an unsigned operand can hold them;
            the product is then corrected by ``-offset * sum(activations)``.
    """

    name: str
    tile_rows: ClassVar[dict[str, int]]
    tile_vectors: int = 4
    rounds: bool = True
    halves: bool = True
    centroid_offset: int = 0
    #: Bytes that one register table holds.
    table_entries: int = 16
    #: Whether there is `dot_vectors`.
    multiplies_vectors: bool = False

    # --- bits inside bytes -------------------------------------------------------------------

    def move_bits(self, vector: Expr, right: int) -> Expr:
        """Shift every byte right (left if negative); bits that enter a byte are undefined.

        The default shifts 16-bit lanes: a field that lies inside a byte before and after the
        shift is moved right, and what the neighbour pushes in lies outside of it.
        """
        if right == 0:
            return vector
        lanes = self.vector_bytes // 2
        words = typed(vector, "uint16", lanes)
        amount = T.broadcast(T.uint16(abs(right)), lanes)
        moved = T.shift_right(words, amount) if right > 0 else T.shift_left(words, amount)
        return typed(moved, "uint8", self.vector_bytes)

    def constant_bytes(self, value: int) -> Expr:
        """A vector with ``value`` in every byte."""
        return T.broadcast(T.uint8(value & 0xFF), self.vector_bytes)

    def join_bits(self, mask: int, one: Expr, other: Expr) -> Expr:
        """Bytes with the bits ``mask`` of ``one`` and all others of ``other``."""
        return T.bitwise_or(
            T.bitwise_and(one, self.constant_bytes(mask)),
            T.bitwise_and(other, self.constant_bytes(~mask)),
        )

    def unpack(self, code: Code, vectors: Sequence[Expr]) -> Expr:
        """Bring a sub-vector's bytes out of a unit's packed vectors, as its code says.

        Bits that its look-up does not read are undefined.
        """
        shifts = {piece.shift for piece in code.pieces}
        late = len(shifts) == 1 and len(code.pieces) > 1  # one shift for all: join, then move once
        joined, covered = None, 0
        for piece in code.pieces:
            part = vectors[piece.vector]
            mask = piece.before if late else piece.mask
            part = part if late else self.move_bits(part, piece.shift)
            joined = part if joined is None else self.join_bits(covered, joined, part)
            covered |= mask
        return self.move_bits(joined, code.pieces[0].shift) if late else joined

    # --- int8 look-ups -----------------------------------------------------------------------

    def codes(self, bits: int) -> Sequence[Code]:
        """How indices of ``bits`` bits are packed for byte look-ups: one code a sub-vector.

        The look-up of a code reads the bits ``code.reads``, through a table made for them; the
        fewer different ones there are, the fewer registers hold tables.
        """
        return planes(bits)

    @abstractmethod
    def byte_table(self, values: np.ndarray, reads: Sequence[int]) -> np.ndarray:
        """Lay ``uint8 [2^bits]`` (bits < 8) out as a table ``uint8 [bytes]``.

        Args:
            values: What index i stands for.
            reads: Bit b of the index is bit ``reads[b]`` of what is looked up.
        """

    @abstractmethod
    def load_byte_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        """Bring one table into registers, once, before the loops."""

    @abstractmethod
    def look_up_bytes(self, bits: int, table: Sequence[Expr], index: Expr) -> Expr:
        """Look a vector of indices up. Bits the table was not made to read are undefined."""

    # --- int8 dot products -------------------------------------------------------------------

    #: Vectors of partial sums an output vector of one row needs.
    partial_sums: int = 1
    #: Groups of 4 k that a dot product takes at once.
    dot_groups: int = 1
    #: How the bytes of a sub-vector are ordered; see ``layout.TileLayout``.
    byte_order: str = "output"

    def activations(self, load: Loader, groups: int) -> Sequence[Expr]:
        """Read a unit's activations of a row, in the form ``dot`` wants them.

        Args:
            load: ``load(offset, count)``: int8 activations from the unit's first k on.
            groups: How many groups of 4.
        """
        return [T.bind(T.reinterpret("int32", load(4 * group, 4))) for group in range(groups)]

    @abstractmethod
    def dot(
        self, sums: Sequence[Expr], weights: Sequence[Expr], activations: Sequence[Expr]
    ) -> Sequence[Expr]:
        """Add the dot products of consecutive groups of 4 bytes to ``int32`` sums.

        Args:
            sums: ``partial_sums`` vectors ``int32 [lanes]``.
            weights: One vector a group: ``lanes`` outputs x 4 centroids.
            activations: What ``activations`` made, one a group; by default an ``int32`` scalar of
                4 int8 activations.
        """

    def sums_of(self, rows: int) -> int:
        """Vectors of partial sums an output vector of several rows needs."""
        return rows * self.partial_sums

    def dot_rows(
        self,
        sums: Sequence[Expr],
        weights: Sequence[Expr],
        activations: Sequence[Sequence[Expr]],
    ) -> Sequence[Expr]:
        """Do what ``dot`` does for several rows with their ``sums_of(rows)`` sums."""
        size = self.partial_sums
        made: list[Expr] = []
        for row, own in enumerate(activations):
            made += self.dot(sums[row * size : (row + 1) * size], weights, own)
        return made

    def totals(self, sums: Sequence[Expr], rows: int) -> Sequence[Expr]:
        """Bring the partial sums of several rows together: ``int32 [lanes]`` of each row."""
        size = self.partial_sums
        return [self.total(sums[row * size : (row + 1) * size]) for row in range(rows)]

    def dot_vectors(self, total: Expr, unsigned: Expr, signed: Expr) -> Expr:
        """Add the dot products of groups of 4 bytes of two vectors to ``int32 [lanes]``."""
        raise AssertionError(f"{self.name} has no such instruction: see multiplies_vectors")

    def total(self, sums: Sequence[Expr]) -> Expr:
        """Bring partial sums together: ``int32 [lanes]``, an output a lane."""
        return sums[0]

    # --- counting bits -----------------------------------------------------------------------

    #: dtype of a counter, one for each byte or each 32-bit lane of a vector.
    counter: str = "uint8"
    #: Vectors a counter can take before it must be folded: 31 times 8 bits fit a byte.
    most_counted: int = 31
    #: Counters that can be live at once, beside what the counting of a vector needs.
    live_counters: int = 24

    def count_bits(self, vector: Expr) -> Expr:
        """The set bits of a vector ``int32 [lanes]``, as counters."""
        bytes_ = typed(vector, "uint8", self.vector_bytes)
        name = f"llvm.ctpop.v{self.vector_bytes}i8"
        return T.call_llvm_pure_intrin(f"uint8x{self.vector_bytes}", name, bytes_)

    @abstractmethod
    def fold_counts(self, counters: Expr) -> Expr:
        """Add the counters of each 32-bit lane up: ``int32 [lanes]``."""

    # --- fp32 look-ups -----------------------------------------------------------------------

    def float_codes(self, bits: int) -> Sequence[Code]:
        """How indices are packed for fp32 look-ups; each reads the lowest bits of its bytes."""
        return planes(bits)

    def float_order(self, bits: int) -> str:
        """How ``look_up_floats`` wants the bytes of its vectors; see ``layout.TileLayout``."""
        return "output"

    @abstractmethod
    def float_table(self, values: np.ndarray) -> np.ndarray:
        """Lay ``float32 [2^bits]`` out as the table operand (``float32`` or ``uint8``)."""

    @abstractmethod
    def load_float_table(self, bits: int, load: Loader) -> Sequence[Expr]:
        """Bring the table into registers, once, before the loops."""

    @abstractmethod
    def look_up_floats(
        self, bits: int, table: Sequence[Expr], gather: Gather, index: Expr
    ) -> Sequence[Expr]:
        """Look 4 x lanes indices up: 4 vectors ``float32 [lanes]``, one a depth (k)."""


def select_tree(candidates: Sequence[Expr], pick: Callable[[Expr, Expr, int], Expr]) -> Expr:
    """Pick among ``2^m`` looked-up vectors by the index bits above the table's own.

    Args:
        candidates: What each table half, quarter, ... answered, lowest first.
        pick: ``pick(low, high, level)`` chooses by index bit ``level``, counted above the table's
            own bits. Not TIR's Select: TVM's simplifier takes exponential time over nested ones.
    """
    picked, level = list(candidates), 0
    while len(picked) > 1:
        pairs = zip(picked[::2], picked[1::2], strict=True)
        picked = [T.bind(pick(low, high, level)) for low, high in pairs]
        level += 1
    return picked[0]


def zip_lanes(a: Expr, b: Expr, half: int, lanes: int, width: int) -> Expr:
    """Interleave the low (half 0) or high halves of every 128 bits of two vectors.

    Args:
        a: A vector of ``lanes`` elements.
        b: The same.
        half: 0 or 1.
        lanes: Elements of a vector.
        width: Elements of 128 bits.
    """
    starts = range(half * width // 2, lanes, width)
    first = [start + i for start in starts for i in range(width // 2)]
    return tirx.Shuffle([a, b], [lane for i in first for lane in (i, i + lanes)])
