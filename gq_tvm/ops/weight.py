"""A weight in a codebook, in NumPy: what every part of the road means by a weight.

A weight W [N, K] is ``scale * (codebook[index] - zero)``, element by element. Its scales and zero
points belong to the tensor, to a row, or to a group of 16, 32, 64 or 128 inputs of a row; the last
group of a row may be short. Its codebook is one table or several, which share out the rows or are
one for each group of inputs. A few of its elements, the outliers, may have a float of their own
added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error
from gq_tvm.ops import checks
from gq_tvm.ops.rounding import quantize_codebook

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

_LINE = 64  # bytes


class OnGrid(NamedTuple):
    """What a product with integers needs of a weight.

    Attributes:
        grid: i8 [T, 2^bits], each table on an int8 grid.
        scale: f32 [N, J], each group's scale times that of its table.
        zero: f32 [N, J], each group's scale times its zero point, or None.
        step: f32 [T], the scale of each table.
    """

    grid: NDArray[np.int8]
    scale: F32
    zero: F32 | None
    step: F32


class Outliers(NamedTuple):
    """Single weights kept apart: what is added to what their indices stand for.

    They are a sparse matrix beside that of the codebook (SqueezeLLM, arXiv 2306.07629, section 4.2;
    SpQR, arXiv 2306.03078). An index under one keeps its meaning, so integer sums stay sums of all
    indices.

    Attributes:
        positions: i32 or i64 [M], into the flat [N, K], rising.
        values: f32 or f16 [M].
    """

    positions: NDArray
    values: NDArray


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight [N, K] in a codebook.

    Attributes:
        indices: u8 [N, K], values below 2^bits; of a convolution [N, C / groups, k], with
            K = C / groups * k, taps the fastest.
        codebook: f32 [T, 2^bits], table t for the rows t N / T to (t + 1) N / T - 1, bits 1 to 8;
            or f32 [1, T, 2^bits], table t for group t of the inputs.
        scale: [1], [N] or [N, J], a factor for the tensor, each row or each of the J groups of
            each row; f32, f16, or u8 (0 to 255, the size of a step being the codebook's).
        zero: like ``scale``, of its shape, in units of the codebook; None for 0.
        outliers: What is added to single weights, or None.
    """

    indices: U8
    codebook: F32
    scale: NDArray
    zero: NDArray | None = None
    outliers: Outliers | None = None

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return checks.bits_of(self.codebook)

    @property
    def rows(self) -> int:
        """N, the outputs."""
        return int(self.indices.shape[0])

    @property
    def width(self) -> int:
        """K, the inputs."""
        return int(np.prod(self.indices.shape[1:], dtype=np.int64))

    @property
    def groups(self) -> int:
        """J, the groups of inputs that have a scale, a zero point or a table of their own."""
        return checks.groups_of(self.codebook, self.scale)

    @property
    def group(self) -> int:
        """Inputs of a group: 16, 32, 64 or 128; 0 if a row is not parted into groups."""
        return checks.group_size(self.width, self.groups)

    @property
    def bytes(self) -> int:
        """What the weight takes: indices of ``bits`` bits, tables, scales, zeros and outliers."""
        arrays = [self.codebook, self.scale, self.zero, *(self.outliers or ())]
        rest = sum(array.nbytes for array in arrays if array is not None)
        return -(-self.indices.size * self.bits // 8) + rest

    def check(self, op: str, ndim: int = 2) -> None:
        """Refuse arrays that make no weight.

        Args:
            op: Whom the refusal names.
            ndim: The axes of the indices.

        Raises:
            Error: a shape, a dtype or an index is wrong, or a table, a scale or a zero point is
                NaN or infinite.
        """
        checks.check_weight(op, self.indices, self.codebook, self.scale, self.zero, ndim)
        checks.check_largest_index(op, int(self.indices.max(initial=0)), self.bits)
        for name in ("codebook", "scale", "zero"):
            array = getattr(self, name)
            if array is not None and not np.isfinite(array).all():
                raise Error(f"{op}: {name} holds NaN or infinity.")
        if self.outliers is not None:
            positions, values = self.outliers
            checks.check_outliers(op, positions, values)
            if positions.size:
                first, last = int(positions[0]), int(positions[-1])
                rising = bool((np.diff(positions) > 0).all())
                checks.check_positions(op, first, last, rising, self.indices.size)
            if not np.isfinite(values).all():
                raise Error(f"{op}: an outlier is NaN or infinite.")

    def scales(self) -> F32:
        """The scale of each group of each row: f32 [N, J]."""
        return _spread(self.scale, self.rows, self.groups)

    def zeros(self) -> F32 | None:
        """The zero point of each group of each row, f32 [N, J], or None."""
        return None if self.zero is None else _spread(self.zero, self.rows, self.groups)

    @property
    def kept_as(self) -> tuple[str, str]:
        """The dtypes in which kernels read the scales and the zero points."""
        groups = self.groups
        return checks.kept_as(self.scale, groups), checks.kept_as(self.zero, groups)

    def kept(self) -> tuple[NDArray, NDArray | None]:
        """`scales` and `zeros` in these dtypes."""
        scale, zero = self.kept_as
        zeros = self.zeros()
        return self.scales().astype(scale), None if zeros is None else zeros.astype(zero)

    def tables(self) -> NDArray[np.int64]:
        """The table of each group of each row: i64 [N, J] into the axis before the codebook's last.

        It is read-only, a view of less.
        """
        count = self.codebook.shape[-2]
        if self.codebook.ndim == 3:
            numbers = np.arange(count)[None]
        else:
            numbers = np.arange(self.rows)[:, None] * count // max(1, self.rows)
        return np.broadcast_to(numbers, (self.rows, self.groups))

    def by_input(self, per_group: NDArray) -> NDArray:
        """Values [N, J] of groups as values [N, K] of inputs, or [N, 1] of a single group."""
        if self.groups == 1:
            return per_group
        return np.repeat(per_group, self.group, axis=1)[:, : self.width]

    def looked_up(self, table: NDArray) -> NDArray:
        """The values [T, 2^bits] of a table at the indices: [N, K]."""
        flat = self.indices.reshape(self.rows, self.width)
        return table[self.by_input(self.tables()), flat] if len(table) > 1 else table[0][flat]

    def on_grid(self) -> OnGrid:
        """Each table on its int8 grid, for rows of integers."""
        grid, steps = quantize_codebook(self.codebook.reshape(-1, self.codebook.shape[-1]))
        scales, zeros = self.scales(), self.zeros()
        zeros = None if zeros is None else scales * zeros
        return OnGrid(grid, scales * steps[self.tables()], zeros, steps)

    def expand(self) -> F32:
        """The weight itself, f32 of the shape of the indices, each step rounded to f32."""
        zeros = self.zeros()
        values = self.looked_up(self.codebook.reshape(-1, self.codebook.shape[-1]))
        if zeros is not None:
            values = values - self.by_input(zeros)
        values = values * self.by_input(self.scales())
        if self.outliers is not None:
            positions, added = self.outliers
            values.reshape(-1)[positions] += added.astype(np.float32)
        return values.reshape(self.indices.shape)

    def fold(self, factor: F32) -> Weight:
        """The weight with each row times a factor, f32 [N] of any sign: a multiplication of scales.

        The scales become f32.
        """
        scale = _spread(self.scale, self.rows, self.scale.shape[1] if self.scale.ndim == 2 else 1)
        scale = scale * factor[:, None].astype(np.float32)
        zero = self.zero
        if zero is not None and zero.ndim == 1:
            zero = np.broadcast_to(zero, self.rows)
        outliers = self.outliers
        if outliers is not None:
            values = outliers.values * factor[outliers.positions // max(1, self.width)]
            outliers = Outliers(outliers.positions, values.astype(np.float32))
        scale = scale if self.scale.ndim == 2 else scale[:, 0]
        return replace(self, scale=scale, zero=zero, outliers=outliers)

    def split_rows(self, parts: int) -> list[Weight]:
        """The weight as ``parts`` weights of N / parts rows each.

        Raises:
            Error: the rows do not divide into so many parts.
        """
        if self.rows % parts:
            raise Error(f"weight: {self.rows} rows do not divide into {parts} parts.")
        size = self.rows // parts
        return [self._rows(part * size, size) for part in range(parts)]

    def _rows(self, first: int, size: int) -> Weight:
        rows = slice(first, first + size)

        def part(array: NDArray) -> NDArray:
            return array[rows] if len(array) == self.rows else array

        codebook = self.codebook
        if codebook.ndim == 2 and len(codebook) > 1:
            block = self.rows // len(codebook)
            if block == 1 or (first % block == 0 and size % block == 0):
                codebook = codebook[first // block : (first + size) // block]
            else:
                codebook = np.repeat(codebook, block, axis=0)[rows]
        outliers = self.outliers
        if outliers is not None:
            at = outliers.positions - first * self.width
            inside = (at >= 0) & (at < size * self.width)
            outliers = Outliers(at[inside], outliers.values[inside])
        zero = None if self.zero is None else part(self.zero)
        return Weight(self.indices[rows], codebook, part(self.scale), zero, outliers)

    @staticmethod
    def from_tables(indices: U8, codebook: F32, activation: str) -> Weight:
        """A weight whose tables are products of a scale and one table, taken apart.

        Rows that are not multiples of one table keep their tables, with a scale of 1.

        Args:
            indices: u8 [N, ...].
            codebook: f32 [T, 2^bits].
            activation: ``"fp32"`` compares the tables divided by their largest magnitude, within
                1e-5; the integer kinds compare them on their int8 grids.
        """
        kept = Weight(indices, codebook, np.ones(1, np.float32))
        if len(codebook) == 1:
            return kept
        if activation == "fp32":
            scale = np.abs(codebook).max(axis=1)
            shapes = codebook / np.where(scale > 0, scale, np.float32(1))[:, None]
            tolerance = 1e-5
        else:
            grid, scale = quantize_codebook(codebook)
            shapes, tolerance = grid.astype(np.float32), 0.0
        alive = shapes[scale > 0]  # a row of zeros is a multiple of anything
        shape = alive[:1] if len(alive) else shapes[:1]
        if not np.isfinite(shapes).all() or np.abs(alive - shape).max(initial=0) > tolerance:
            return kept
        scale = np.repeat(scale.astype(np.float32), len(indices) // len(codebook))
        return Weight(indices, shape.astype(np.float32), scale)


def packed_bytes(
    rows: int,
    width: int,
    bits: int,
    activation: str,
    *,
    groups: int = 1,
    tables: int = 1,
    scale: str = "float32",
    zero: str | None = None,
    outliers: int = 0,
    outlier: str = "float16",
) -> int:
    """Bytes of a weight [N, K] once it is packed for kernels.

    Indices of ``bits`` bits; tables in whole cache lines, of floats for ``"fp32"`` and of bytes
    otherwise, where 8-bit indices are packed as the centroids they name; and for each group of each
    row the scale and the zero point as they are stored. One group a row has a float for either,
    whatever they were stored as; where scales or zero points of groups are not floats of 32 bits
    and activations are integers, each table has a float more, its step. An outlier has its column
    (2 bytes, of a row of more than 65,536 inputs 4), a byte for its row and its value. What a
    device adds is left out: copies of a table for its instructions, rows and inputs up to a whole
    tile.

    Args:
        rows: N.
        width: K.
        bits: Of an index.
        activation: One of ``checks.ACTIVATIONS``.
        groups: Groups of a row.
        tables: Of the codebook.
        scale: dtype of the scales.
        zero: dtype of the zero points; None if there are none.
        outliers: How many there are.
        outlier: dtype of what they add.
    """
    entries = 2**bits * tables
    table = 4 * entries if activation == "fp32" else entries if bits < 8 else 1
    size = -(-rows * width * bits // 8) + -(-table // _LINE) * _LINE
    stored = ["float32" if groups == 1 else one for one in (scale, zero) if one]
    size += rows * groups * sum(np.dtype(one).itemsize for one in stored)
    size += outliers * (3 + 2 * (width > 2**16) + np.dtype(outlier).itemsize)
    return size + (0 if activation == "fp32" or {*stored} == {"float32"} else 4 * tables)


def _spread(values: NDArray, rows: int, columns: int) -> F32:
    """Values [1], [N] or [N, J] as f32 [N, columns]."""
    values = values.astype(np.float32)
    return np.broadcast_to(values if values.ndim == 2 else values[:, None], (rows, columns))
