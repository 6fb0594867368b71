"""Engine ``dense_f32``: fp32 weights in memory, the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.engine import Engine, Store, tile_space
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.staging.float_rows import FloatRows
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Schedule

Expr = Any

_UNROLL = 4  # k in a step: amortises the loop, as the units of the look-up kernels do


class DenseFloatEngine(Engine):
    """``y = (sum_k x[m, k] w[n, k]) * scale_w[n]`` in fp32."""

    def __init__(self, isa: InstructionSet, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self._steps = -(-self.k // _UNROLL)
        self._staged = FloatRows(self.k, self._steps * _UNROLL, isa.lanes)

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        return tile_space(isa, "fp32", product)

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        padded = np.zeros((self.padded_n, self._steps * _UNROLL), np.float32)
        padded[: self.n, : self.k] = levels.table[0][indices]
        tiles = padded.reshape(self.tiles, self.outputs, -1).transpose(0, 2, 1)
        return {
            "weights": np.ascontiguousarray(tiles),
            **self.pack_scales(levels),
        }

    def declare(self) -> None:
        shape = (self.tiles, self._steps * _UNROLL, self.outputs)
        self._weights = T.arg("weights", T.buffer(shape, "float32"))
        self.declare_scales()

    def begin(self, rows: int) -> None:
        self._staged.begin(rows)

    def stage(self, load: Callable[[Expr, int], Expr], slot: Expr) -> None:
        self._staged.stage(load, slot)

    def multiply(self, tile: Expr, slots: Sequence[Expr], store: Store) -> None:
        lanes = self.lanes
        sums = self.accumulators(len(slots), "float32")

        def step_trip(step: Expr) -> None:
            for k in (step * _UNROLL + u for u in range(_UNROLL)):
                activations = [T.bind(self._staged.buffer[slot, k]) for slot in slots]
                for v in range(self.vectors):
                    weight = T.bind(self._weights[tile, k, T.ramp(v * lanes, 1, lanes)])
                    for row in range(len(slots)):
                        total = self.read(sums[row][v][0])
                        self.write(
                            sums[row][v][0],
                            total + weight * T.broadcast(activations[row], lanes),
                        )

        self.trips(self._steps, step_trip)
        for row in range(len(slots)):
            for v in range(self.vectors):
                scale = self.scales(tile, v)
                store(row, v, self.read(sums[row][v][0]) * scale)
