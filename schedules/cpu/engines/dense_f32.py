"""Engine ``dense_f32``: fp32 weights in memory, the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import ramp, spread
from gq_tvm.schedules.cpu.engine import Engine, Store, tile_space
from gq_tvm.schedules.cpu.instruction_sets import InstructionSet
from gq_tvm.schedules.cpu.instruction_sets.base import Lanes
from gq_tvm.schedules.cpu.staging.float_rows import FloatRows
from gq_tvm.schedules.family import Product
from gq_tvm.schedules.levels import Levels
from gq_tvm.schedules.schedule import Schedule

Expr = Any

_UNROLL = 4  # k in a step: amortises the loop, as the units of the look-up kernels do


class DenseFloatEngine(Engine):
    """``y = (sum_k x[m, k] w[n, k]) * scale_w[n]`` in fp32."""

    def __init__(self, isa: Lanes, product: Product, schedule: Schedule) -> None:
        super().__init__(isa, product, schedule)
        self._steps = -(-self.k // _UNROLL)
        self._staged = FloatRows(self.k, self._steps * _UNROLL, isa.lanes)

    @classmethod
    def space(cls, isa: InstructionSet, product: Product) -> list[Schedule]:
        return tile_space(isa, "fp32", product)

    def operands(self, indices: np.ndarray, levels: Levels) -> dict[str, np.ndarray]:
        return {"weights": self.tiled(levels.table[0][indices]), **self.pack_scales(levels)}

    def tiled(self, weight: np.ndarray) -> np.ndarray:
        """Lay the floats of a weight [N, K] out."""
        padded = np.zeros((self.padded_n, self._steps * _UNROLL), np.float32)
        padded[: self.n, : self.k] = weight
        tiles = padded.reshape(self.tiles, self.outputs, -1).transpose(0, 2, 1)
        return np.ascontiguousarray(tiles)

    def declare(self) -> None:
        self.declare_weights()
        self.declare_scales()

    def declare_weights(self) -> None:
        """Declare what `tiled` lays out as an argument."""
        shape = (self.tiles, self._steps * _UNROLL, self.outputs)
        self._weights = T.arg("weights", T.buffer(shape, "float32"))

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
                    weight = T.bind(self._weights[tile, k, ramp(v * lanes, lanes)])
                    for row in range(len(slots)):
                        total = self.read(sums[row][v][0])
                        self.write(
                            sums[row][v][0],
                            total + weight * spread(activations[row], lanes),
                        )

        self.trips(self._steps, step_trip)
        for row in range(len(slots)):
            for v in range(self.vectors):
                store(row, v, self.scaled(tile, v, self.read(sums[row][v][0])))

    def scaled(self, tile: Expr, v: int, total: Expr) -> Expr:
        """The sums of an output vector times its scales."""
        return total * self.scales(tile, v)


class FloatEngine(DenseFloatEngine):
    """The same of a float weight, which has no scales."""

    def declare(self) -> None:
        self.declare_weights()

    def scaled(self, tile: Expr, v: int, total: Expr) -> Expr:
        return total
