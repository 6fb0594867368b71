"""Engine ``lookup_f32``: fp32 activations and centroids, looked up in registers; the exact path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.engine import Engine, Store, tile_space
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.layout import TileLayout, whole_lines
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.schedule import Schedule

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
                T.buffer_store(self.buffer, load(at, self.lanes), [slot, T.ramp(at, 1, self.lanes)])
        for i in range(rest):
            at = T.int32(whole * self.lanes + i)
            T.buffer_store(self.buffer, load(at, 1), [slot, at])


class LookupFloatEngine(Engine):
    """``y = (sum_k x[m, k] t[index[n, k]]) * scale_w[n]`` in fp32."""

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        bits, k = self.bits, self.k
        self.layout = TileLayout(
            bits, isa.lanes, isa.float_codes(bits), self.vectors, isa.float_order(bits)
        )
        self._staged = FloatRows(k, -(-k // self.layout.depth) * self.layout.depth, isa.lanes)

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        space = tile_space(isa, "fp32", product)
        if product.bits == 8 and not product.gates:  # the table takes half the registers
            space.sort(key=lambda one: one["vectors"] != 2)
        return space

    def operands(
        self, indices: np.ndarray, table: np.ndarray, scale: np.ndarray
    ) -> dict[str, np.ndarray]:
        return {
            "weights": self.layout.pack(indices),
            "table": whole_lines(self.isa.float_table(table.astype(np.float32))),
            "scale": np.pad(scale, (0, self.padded_n - self.n)),
        }

    def declare(self) -> None:
        table = whole_lines(self.isa.float_table(np.zeros(2**self.bits, np.float32)))
        self._weights = T.arg("weights", T.buffer(self.layout.shape(self.n, self.k), "uint8"))
        self._table = T.arg("table", T.buffer(table.shape, str(table.dtype)))
        self._scale = T.arg("scale", T.buffer((self.padded_n,), "float32"))

    def begin(self, rows: int) -> None:
        self._staged.begin(rows)

    def tables(self) -> None:
        self._registers = self.isa.load_float_table(
            self.bits, lambda offset, lanes: self._table[T.ramp(offset, 1, lanes)]
        )

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        self._staged.stage(load, slot)

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        layout, lanes = self.layout, self.lanes
        _, units, count, size = layout.shape(self.n, self.k)
        sums = self.accumulators(len(slots), "float32")

        def unit_step(unit: Expr) -> None:
            vectors = [
                T.bind(self._weights[tile, unit, j, T.ramp(0, 1, size)]) for j in range(count)
            ]
            for group in range(layout.groups):
                activations = [
                    [
                        T.bind(self._staged.buffer[slot, unit * layout.depth + 4 * group + depth])
                        for depth in range(4)
                    ]
                    for slot in slots
                ]
                for v in range(self.vectors):
                    index = T.bind(
                        self.isa.unpack(self.layout.codes[group * self.vectors + v], vectors)
                    )
                    weights = self.isa.look_up_floats(
                        self.bits, self._registers, lambda at: self._table[at], index
                    )
                    weights = [T.bind(weight) for weight in weights]
                    for row in range(len(slots)):
                        total = self.read(sums[row][v][0])
                        for weight, activation in zip(weights, activations[row], strict=True):
                            total = total + weight * T.broadcast(activation, lanes)
                        self.write(sums[row][v][0], total)

        self.trips(units, unit_step)
        for row in range(len(slots)):
            for v in range(self.vectors):
                scale = self._scale[T.ramp(tile * self.outputs + v * lanes, 1, lanes)]
                store(row, v, self.read(sums[row][v][0]) * scale)
