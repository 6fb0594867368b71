"""What kernels take of a weight beside its indices: tables, scales and zero points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops.weight import Weight

F32 = NDArray[np.float32]


class Levels(NamedTuple):
    """Tables, scales and zero points, the same for every kernel of an arithmetic.

    Attributes:
        table: [T, 2^bits], f32 for fp32 activations, otherwise i8.
        scale: f32 [N, J], what the sum of each of the J groups is multiplied by.
        zero: f32 [N, J], what the sum of a group's activations is multiplied by and taken away;
            None for 0.
        step: f32 [T] where scales or zero points are kept in fewer bits (`Product.narrow`), else
            None. ``scale`` and ``zero`` are then the weight's own: sums are multiplied by
            ``scale * step`` of their table, of fp32 activations by ``scale``, and those of
            activations by ``scale * zero``, each such product rounded to f32.
        of_row: i64 [N], the table of each row; None where rows do not share tables out.
    """

    table: NDArray
    scale: NDArray
    zero: NDArray | None = None
    step: F32 | None = None
    of_row: NDArray[np.int64] | None = None

    @staticmethod
    def of(weight: Weight, arithmetic: str) -> Levels:
        """Those of a weight that meets activations of kind ``arithmetic``.

        Raises:
            Error: a centroid is NaN or infinite.
        """
        tables = weight.codebook.reshape(-1, weight.codebook.shape[-1])
        by_rows = weight.codebook.ndim == 2 and len(tables) > 1
        of_row = weight.tables()[:, 0] if by_rows else None
        on_grid = weight.on_grid() if arithmetic != "fp32" else None
        table = tables if on_grid is None else on_grid.grid
        if weight.kept_as != ("float32", "float32"):
            step = np.ones(len(tables), np.float32) if on_grid is None else on_grid.step
            return Levels(table, *weight.kept(), step, of_row)
        scale, zero = weight.scales(), weight.zeros()
        zero = None if zero is None else scale * zero
        return Levels(table, scale if on_grid is None else on_grid.scale, zero, None, of_row)

    def in_order(self, order: NDArray[np.int64]) -> Levels:
        """The same for packed rows, ``order`` being the source row of each, -1 for padding."""
        zero = None if self.zero is None else in_order(self.zero, order)
        of_row = None if self.of_row is None else in_order(self.of_row, order)
        return Levels(self.table, in_order(self.scale, order), zero, self.step, of_row)


def in_order(per_row: NDArray, order: NDArray[np.int64]) -> NDArray:
    """Values [N, ...] at the rows of ``order``, zero where it has none."""
    found = per_row[order]
    found[order < 0] = 0
    return found
