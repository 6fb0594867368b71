"""What linear and recurrent kernels share: one tile of outputs times a few rows.

An engine is the arithmetic of a kernel family. It owns the weight operands, stages rows of
activations in the form its arithmetic wants, and multiplies a tile. The loops around it belong
to ``linear.py`` and ``recurrent.py``; the instructions belong to an ``InstructionSet``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu import emit
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.instruction_sets.base import Lanes
from gq_tvm.schedules.cpu.vector_math import VectorMath
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Knob, Schedule, grid

Expr = Any
Buffer = Any
#: store(row position, output vector of the tile, float32 vector): takes the results of a tile.
Store = Callable[[int, int, Expr], None]


#: What can be turned of the loops around an engine.
KNOBS = (
    Knob("vectors", 4, layout=True),  # output vectors of a tile; it divides 8
    Knob("rows", 4),  # of activations a tile takes at once, while its weights are in registers
    Knob("block", 16),  # rows staged before the tiles pass by; they should fit the cache
    Knob("unroll", 1),  # units of K in one trip of the innermost loop
    Knob("prefetch", 0),  # bytes of weights fetched ahead of their use; 0 leaves it to the hardware
)


class Engine(ABC):
    """Multiplies staged rows with tiles of a weight matrix ``[N, K]``.

    The methods emit TIR into the function under construction, in this order: ``declare`` among
    the arguments, ``begin`` once, then ``stage``, ``tables`` and ``multiply`` inside the loops.
    """

    def __init__(self, isa: Lanes, product: Product, schedule: Schedule) -> None:
        """Prepare the kernel of a product of which N counts packed rows."""
        self.isa: Lanes = isa
        self.product = product
        self.n = product.n
        self.k = product.k
        self.bits = product.bits
        self.schedule = schedule
        self.vectors = schedule["vectors"]
        self.lanes = isa.lanes
        self.outputs = self.vectors * isa.lanes
        self.tiles = -(-self.n // self.outputs)
        self.math = VectorMath(isa.lanes, isa.rounds, isa.halves)

    @classmethod
    def supports(cls, isa: Any, product: Product) -> bool:
        """Whether there are kernels for `product` on an instruction set."""
        return product.plain

    @classmethod
    @abstractmethod
    def space(cls, isa: Any, product: Product) -> list[Schedule]:
        """The schedules worth trying for `product`, the one to take untried first."""

    @property
    def padded_n(self) -> int:
        """N rounded up to whole tiles."""
        return self.tiles * self.outputs

    @abstractmethod
    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        """Lay a weight out as the operands of ``declare``.

        Args:
            indices: uint8 [N, K].
            levels: Its tables, scales and zero points.
        """

    @abstractmethod
    def declare(self) -> None:
        """Declare the operands as arguments, in the order of ``operands``."""

    @abstractmethod
    def begin(self, rows: int) -> None:
        """Allocate room for ``rows`` staged rows."""

    def tables(self) -> None:  # noqa: B027 - not every engine has tables
        """Bring the tables into registers; once in each region that a thread runs by itself."""

    @abstractmethod
    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        """Bring a row into slot ``slot``; ``load(k, lanes)`` reads fp32 activations from k on."""

    @abstractmethod
    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        """Multiply staged rows with a tile of weights; pass each result vector to ``store``."""

    def accumulators(self, rows: int, dtype: str, sums: int = 1) -> list[list[list[Buffer]]]:
        """Allocate zero vectors ``[row][output vector][partial sum]``.

        One small buffer each: LLVM keeps them in registers, a single large one it would not.
        """
        zero = emit.spread(T.Cast(dtype, 0) if dtype == "int32" else T.float32(0), self.lanes)
        made = []
        for _ in range(rows):
            vectors = []
            for _ in range(self.vectors):
                parts = [T.alloc_buffer((self.lanes,), dtype) for _ in range(sums)]
                for part in parts:
                    self.write(part, zero)
                vectors.append(parts)
            made.append(vectors)
        return made

    def pack_scales(self, levels: Levels) -> dict[str, np.ndarray]:
        """Lay scales and zero points out as the operands of ``declare_scales``."""
        made = {
            name: self._pack_scale(value)
            for name, value in (("scale", levels.scale), ("zero", levels.zero))
            if value is not None
        }
        if self._own_steps:
            assert levels.step is not None
            made["step"] = levels.step
        return made

    @property
    def _own_steps(self) -> int:
        """The steps of tables that stand apart from the scales."""
        product = self.product
        if not product.narrow or product.activation == "fp32":
            return 0
        return product.tables or product.groups

    def _pack_scale(self, values: np.ndarray) -> np.ndarray:
        """A row's scale behind the other's; those of groups as a tile meets them."""
        padded = np.pad(values, ((0, self.padded_n - len(values)), (0, 0)))
        if not self.product.parted:
            return np.ascontiguousarray(padded[:, 0])
        tiles = padded.reshape(self.tiles, self.outputs, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(tiles)

    def declare_scales(self) -> None:
        """Declare the scales, and the zero points if there are any, as arguments."""
        shape: tuple[int, ...] = (self.padded_n,)
        if self.product.parted:
            shape = (self.tiles, self.product.groups, self.outputs)
        self._scale = T.arg("scale", T.buffer(shape, self.product.scale_type))
        if self.product.zero:
            self._zero = T.arg("zero", T.buffer(shape, self.product.zero_type))
        if self._own_steps:
            self._step = T.arg("step", T.buffer((self._own_steps,), "float32"))

    def scales(self, tile: Expr, v: int) -> Expr:
        """Emit the scales of an output vector of a tile: one a row."""
        return emit.span(self._scale, tile * self.outputs + v * self.lanes, self.lanes)

    def group_scales(self, tile: Expr, group: Expr, v: int) -> tuple[Expr, Expr | None]:
        """Emit what a group's sums, and those of its activations, are multiplied by."""
        at = (tile, group, emit.ramp(v * self.lanes, self.lanes))
        product, widened = self.product, self.math.widened
        scale = T.bind(widened(self._scale[at], product.scale_type))
        zero = T.bind(widened(self._zero[at], product.zero_type)) if product.zero else None
        if not product.narrow:
            return scale, zero
        if zero is not None:
            zero = T.bind(scale * zero)
        if self._own_steps:
            scale = T.bind(scale * self.math.spread(self._step[self.table_of(tile, group, v)]))
        return scale, zero

    def table_of(self, tile: Expr, group: Expr, v: int) -> Expr:
        """Emit the number of the table of a group of an output vector."""
        return T.int32(0)

    def each_group(self, units: int, depth: int, body: Callable[[Expr, Expr, int], None]) -> None:
        """Emit ``body(group, first unit, how many)`` for every group of inputs.

        Args:
            units: Units of K.
            depth: K of a unit; groups are made of whole units.
            body: Emits a group.
        """
        size = self.product.group // depth or units
        whole, rest = divmod(units, size)
        emit.each(whole, lambda group: body(group, group * size, size))
        if rest:
            body(T.int32(whole), T.int32(whole * size), rest)

    def trips(self, units: int, step: Callable[[Expr], None], first: Any = 0) -> None:
        """Emit ``step`` for ``units`` units of K, as many a trip of the loop as ``unroll`` says.

        Args:
            units: How many.
            step: Takes the number of a unit.
            first: The first.
        """
        unroll = max(1, min(self.schedule["unroll"], units))
        whole = units // unroll

        def trip(number: Expr) -> None:
            for i in range(unroll):
                step(first + (number * unroll + i))

        emit.each(whole, trip)
        for unit in range(whole * unroll, units):
            step(first + T.int32(unit))

    def prefetch(self, packed: Buffer, tile: Expr, unit: Expr, ahead: int, lines: int) -> None:
        """Emit the prefetch of a unit's cache lines, ``ahead`` units from here, into L1.

        Past the end of the weights it asks for memory that is not there, which no CPU minds.
        """
        for line in range(lines):
            address = T.address_of(packed[tile, unit + ahead, line, 0])
            T.evaluate(
                T.call_llvm_intrin("void", "llvm.prefetch.p0", address, *map(T.int32, (0, 3, 1)))
            )

    def read(self, buffer: Buffer) -> Expr:
        """Read a whole small buffer as one vector."""
        return emit.span(buffer, 0, self.lanes)

    def write(self, buffer: Buffer, value: Expr) -> None:
        """Write a whole small buffer as one vector."""
        T.buffer_store(buffer, value, [emit.ramp(0, self.lanes)])


def tile_space(
    isa: InstructionSet, kind: str, product: Product, **more: Iterable[int]
) -> list[Schedule]:
    """The schedules of an engine whose tiles are vectors x rows of accumulators.

    Args:
        isa: Whose registers they are.
        kind: What is multiplied: ``"int8"`` or ``"fp32"``, as in ``isa.tile_rows``.
        product: What is to be computed.
        more: Other knobs and their values.
    """
    first, most_rows = isa.tile_vectors, isa.tile_rows[kind]
    vectors = (4, 8) if product.gates else (4, 2, 8)  # whole units of a layer's gates
    if product.gates:
        first = 4
    if product.rows == 1:
        return grid(Schedule(vectors=first, rows=1), vectors=vectors, unroll=(1, 2, 4), **more)
    space = grid(
        Schedule(vectors=first, rows=max(1, most_rows * isa.tile_vectors // first)),
        vectors=vectors,
        rows=sorted({1, 2, most_rows, 2 * most_rows}),
        unroll=(1, 2),
        block=(16,) if product.rows and product.rows <= 16 else (16, 64),
    )
    most = max(4, isa.tile_vectors * most_rows)
    return [one for one in space if one["vectors"] * one["rows"] <= most]
