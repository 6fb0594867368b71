"""How a linear kernel finishes the sums of a tile and stores them."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from gq_tvm.schedules.cpu.emit import ramp
from gq_tvm.schedules.cpu.engine import Engine, Store
from gq_tvm.schedules.epilogue import Epilogue

Expr = Any
Buffer = Any


class Results:
    """Emits the epilogue of tiles and stores them: f32 y [m, outputs].

    The last, partial tile is finished in scratch: no access leaves a tensor.

    Attributes:
        whole_tiles: Tiles without padding.
        rest: Outputs of the last, partial tile; 0 if there is none.
    """

    def __init__(
        self,
        engine: Engine,
        epilogue: Epilogue,
        height: int,
        bias: Buffer,
        residual: Buffer | None,
        y: Buffer,
    ) -> None:
        self.engine, self.epilogue = engine, epilogue
        self.bias, self.residual, self.y = bias, residual, y
        self.activation = engine.math.function(epilogue.activation)
        self.size = epilogue.outputs(engine.outputs)
        self.whole_tiles, self.rest = divmod(int(y.shape[1]), self.size)
        self.edge: Buffer = None
        if self.rest:
            self.edge = T.alloc_buffer((height, self.size), "float32")

    def store(self, tile: Expr, rows: list[Expr], partial: bool) -> Store:
        """What takes the sums of a tile for the rows ``rows`` of y."""
        engine, math, lanes = self.engine, self.engine.math, self.engine.lanes
        linear: dict[int, Expr] = {}  # first halves waiting for their gates, by row

        def store(row: int, v: int, value: Expr) -> None:
            value = value + self.bias[ramp(tile * engine.outputs + v * lanes, lanes)]
            if self.epilogue.glu:
                if v % 2 == 0:
                    linear[row] = T.bind(value)
                    return
                v, value = v // 2, math.gated(linear[row], value)
            else:
                value = self.activation(value)
            if self.epilogue.scale != 1:
                value = value * math.constant(self.epilogue.scale)
            if partial:
                T.buffer_store(self.edge, value, [row, ramp(v * lanes, lanes)])
                return
            at = [rows[row], ramp(tile * self.size + v * lanes, lanes)]
            T.buffer_store(self.y, self._added(value, at), at)

        return store

    def finish(self, tile: Expr, rows: list[Expr]) -> None:
        """Store the partial tile."""
        for row, slot in enumerate(rows):
            with T.serial(0, self.rest) as j:
                at = [slot, tile * self.size + j]
                T.buffer_store(self.y, self._added(self.edge[row, j], at), at)

    def _added(self, value: Expr, at: list[Expr]) -> Expr:
        return value if self.residual is None else self.residual[tuple(at)] + value
