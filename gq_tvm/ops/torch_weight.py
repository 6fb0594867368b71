"""A weight in a codebook as tensors, and products with it: ``weight`` and ``reference.product``.

Sums of outliers are floats in an order of their own; all else is what the definition says to the
last bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gq_tvm.ops import checks
from gq_tvm.ops.torch_rounding import quantize_activations, quantize_rows
from gq_tvm.ops.weight import Outliers, Weight, packed_bytes

_FLOAT32_EXACT = 2**24  # float32 holds every integer up to here
_SMALLEST_HALF = torch.finfo(torch.float16).smallest_normal  # below it f16 has fewer bits


class WeightTensors(NamedTuple):
    """The arrays of a `weight.Weight`, as the operators take them.

    Attributes:
        indices: u8 [N, K], of a convolution [N, C / groups, k].
        codebook: f32 [T, 2^bits] or [1, T, 2^bits].
        scale: f32, f16 or u8 [1], [N] or [N, J]; None for 1.
        zero: Of the scale's shape; None for 0.
        positions: i32 or i64 [M], of the outliers in the flat [N, K], rising; None for no outliers.
        values: f32 or f16 [M], what they add.
    """

    indices: Tensor
    codebook: Tensor
    scale: Tensor | None = None
    zero: Tensor | None = None
    positions: Tensor | None = None
    values: Tensor | None = None

    @property
    def coded(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The arrays but for the outliers', as operators take them in the place of a weight."""
        return self[:4]

    @property
    def outliers(self) -> tuple[Tensor | None, Tensor | None]:
        """Positions and values, as operators take them at their end."""
        return self[4:]

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return checks.bits_of(self.codebook)

    @property
    def groups(self) -> int:
        """As ``Weight.groups``."""
        return checks.groups_of(self.codebook, self.scale)

    @property
    def group(self) -> int:
        """As ``Weight.group``."""
        return checks.group_size(self.indices[0].numel(), self.groups)

    def packed_bytes(self, activation: str) -> int:
        """What it takes once it is packed for kernels: see ``weight.packed_bytes``."""
        types = {
            name: str(array.dtype).removeprefix("torch.")
            for name, array in (
                ("scale", self.scale),
                ("zero", self.zero),
                ("outlier", self.values),
            )
            if array is not None
        }
        return packed_bytes(
            len(self.indices),
            self.indices[0].numel(),
            self.bits,
            activation,
            groups=self.groups,
            tables=self.codebook.shape[-2],
            outliers=0 if self.positions is None else len(self.positions),
            **types,
        )

    def check(self, op: str, ndim: int = 2, values: bool = True) -> None:
        """Refuse what no operator takes; ``values=False`` leaves out what fake tensors lack.

        Raises:
            Error: a shape, a dtype or an index is wrong.
        """
        checks.check_weight(op, *self.coded, ndim=ndim)
        checks.check_outliers(op, *self.outliers)
        if values and self.bits < 8 and self.indices.numel():
            checks.check_largest_index(op, int(self.indices.max()), self.bits)
        if values and self.positions is not None and self.positions.numel():
            at = self.positions
            rising = bool((at[1:] > at[:-1]).all())
            checks.check_positions(op, int(at[0]), int(at[-1]), rising, self.indices.numel())

    @staticmethod
    def of(weight: Weight | WeightTensors) -> WeightTensors:
        """The arrays of a weight as tensors."""
        if isinstance(weight, WeightTensors):
            return weight
        arrays = (weight.indices, weight.codebook, weight.scale, weight.zero)
        tensors: list[Any] = [
            None if one is None else torch.from_numpy(one)
            for one in (*arrays, *(weight.outliers or ()))
        ]
        return WeightTensors(*tensors)

    def numpy(self) -> Weight:
        """The weight they are of."""
        scale = torch.ones(1) if self.scale is None else self.scale
        arrays: list[Any] = [
            None if one is None else one.detach().cpu().numpy()
            for one in self._replace(scale=scale)
        ]
        *coded, positions, values = arrays
        weight = Weight(*coded)
        if positions is None:
            return weight
        return replace(weight, outliers=Outliers(positions, values))

    def coming_to(self, positions: Tensor, values: Tensor) -> WeightTensors:
        """The weight with outliers that bring single places to values, but for their rounding.

        Args:
            positions: i32 or i64 [M], into the flat [N, K], rising.
            values: f32 [M]; what they are beyond the levels is kept as f16, as f32 where f16 is too
                small.
        """
        beyond = values - expand(self).flatten()[positions.long()]
        beyond = torch.where(beyond.abs() < _SMALLEST_HALF, 0.0, beyond)
        if beyond.abs().amax() <= torch.finfo(torch.float16).max:
            beyond = beyond.half()
        return self._replace(positions=positions, values=beyond)

    def take_rows(self, rows: Tensor) -> WeightTensors:
        """The weight of the rows named, i64 [m]."""
        indices, codebook, scale, zero, positions, values = self
        if codebook.dim() == 2 and len(codebook) > 1:
            codebook = codebook[_tables(self)[rows, 0]]
        scale, zero = (a if a is None or a.shape == (1,) else a[rows] for a in (scale, zero))
        if positions is not None and values is not None:
            width = indices[0].numel()
            first, last = (
                torch.searchsorted(positions, (edge * width).to(positions.dtype))
                for edge in (rows, rows + 1)
            )
            counts = last - first
            row = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
            # The outliers of a row lie together: those of the k-th row asked for begin at first[k].
            found = torch.arange(len(row), device=rows.device)
            found = found + (first - counts.cumsum(0) + counts)[row]
            positions = positions[found] + ((row - rows[row]) * width).to(positions.dtype)
            values = values[found]
        return WeightTensors(indices[rows], codebook, scale, zero, positions, values)

    def split_rows(self, parts: int) -> list[WeightTensors]:
        """``parts`` weights of N / parts rows each, with memory of their own."""
        device = self.indices.device

        def own(array: Any) -> Any:
            return None if array is None else array.clone().to(device)

        return [WeightTensors(*map(own, self.of(one))) for one in self.numpy().split_rows(parts)]


# What layers are made of.
AnyWeight = Weight | WeightTensors


class IntegerWeight(NamedTuple):
    """A weight on its int8 grids, for rows that are rounded to integers.

    Attributes:
        grid: integers as f32 [N, K].
        scale: f32 [1 or N, J], each group's scale times its table's.
        zero: f32 [1 or N, J], each group's scale times its zero point, or None.
        group: inputs of a group, 0 for one group.
        activation: how rows are rounded, ``"int8"``, ``"int2"`` or ``"int1"``.
        outliers: f32 [N, K], what they add, zero elsewhere; it meets rows as they were. None for
            none.
    """

    grid: Tensor
    scale: Tensor
    zero: Tensor | None
    group: int
    activation: str
    outliers: Tensor | None = None


# What a matrix product needs of a weight: its floats, or its integers.
Operand = Tensor | IntegerWeight


def expand(weight: WeightTensors) -> Tensor:
    """``Weight.expand``: f32, the shape of the indices."""
    indices, codebook, scale, zero, positions, added = weight
    values = _looked_up(weight, codebook if codebook.dim() == 2 else codebook[0])
    rows, width = values.shape
    whole = weight.groups > 1 and width % weight.group == 0
    if whole:  # a spelling that is recognised again in an exported program
        values = values.reshape(rows, weight.groups, weight.group)
    for name, array in (("zero", zero), ("scale", scale)):
        if array is None:
            continue
        spread = _per_group(array)
        spread = spread.unsqueeze(-1) if whole else _by_input(spread, weight.group, width)
        values = values - spread if name == "zero" else values * spread
    if positions is not None and added is not None:
        values = values.flatten().index_add(0, positions, added.float())
    return values if values.shape == indices.shape else values.reshape(indices.shape)


def _looked_up(weight: WeightTensors, tables: Tensor) -> Tensor:
    """The values of tables [T, 2^bits] at the indices: [N, K]."""
    # Traced, a tensor that an operation gives back as it was would be taken for its result.
    flat = weight.indices if weight.indices.dim() == 2 else weight.indices.flatten(1)
    if len(tables) == 1:
        return tables[0][flat.int()]
    if len(tables) == len(flat) and weight.codebook.dim() == 2:
        return tables.gather(1, flat.long())
    first = _by_input(_tables(weight) * tables.shape[1], weight.group, flat.shape[1])
    return tables.flatten()[first + flat.long()]


def _tables(weight: WeightTensors) -> Tensor:
    """The table of each group of each row: i64 [1 or N, 1 or J]."""
    rows, count = weight.indices.shape[0], weight.codebook.shape[-2]
    device = weight.indices.device
    if weight.codebook.dim() == 3:
        return torch.arange(count, device=device)[None]
    return (torch.arange(rows, device=device) * count // max(1, rows))[:, None]


def _per_group(array: Tensor) -> Tensor:
    """Scales or zero points as f32 [1 or N, 1 or J]."""
    array = array if array.dtype == torch.float32 else array.float()
    return array if array.dim() == 2 else array[:, None]


def _by_input(per_group: Tensor, group: int, width: int) -> Tensor:
    if per_group.shape[1] == 1:
        return per_group
    return per_group.repeat_interleave(group, 1)[:, :width]


def operand(weight: WeightTensors, activation: str) -> Operand:
    """Expand a weight once for many products.

    Rows of integers meet rows of integers: unless ``activation`` is ``"fp32"`` the weight becomes
    one row for each of N, whatever the axes of its indices.
    """
    if activation == "fp32":
        return expand(weight)
    codebook = weight.codebook
    grid, steps = quantize_rows(codebook if codebook.dim() == 2 else codebook[0])
    scale = torch.ones_like(steps[:1]) if weight.scale is None else _per_group(weight.scale)
    zero = None if weight.zero is None else scale * _per_group(weight.zero)
    scale = scale * (steps if len(steps) == 1 else steps[:, 0][_tables(weight)])
    outliers, integers = None, _looked_up(weight, grid)
    if weight.positions is not None and weight.values is not None:
        outliers = torch.zeros_like(integers)
        outliers.view(-1)[weight.positions.long()] = weight.values.float()
    return IntegerWeight(integers, scale, zero, weight.group, activation, outliers)


def split_rows(weight: Operand, parts: int) -> list[Operand]:
    """An operand [N, K] as ``parts`` operands of N / parts rows each."""
    if isinstance(weight, Tensor):
        return list(weight.chunk(parts))

    def split(array: Any) -> list[Any]:
        return [array] * parts if array is None or len(array) == 1 else list(array.chunk(parts))

    grids, outliers = weight.grid.chunk(parts), split(weight.outliers)
    each = zip(grids, split(weight.scale), split(weight.zero), outliers, strict=True)
    return [weight._replace(grid=g, scale=s, zero=z, outliers=o) for g, s, z, o in each]


def product(x: Tensor, weight: Operand) -> Tensor:
    """``reference.product``: x f32 [..., K] -> f32 [..., N]."""
    if isinstance(weight, Tensor):
        return F.linear(x, weight)
    sums = _integer_product(x, weight)
    return sums if weight.outliers is None else sums + F.linear(x, weight.outliers)


def _integer_product(x: Tensor, weight: IntegerWeight) -> Tensor:
    """The product of rounded rows with what the indices stand for."""
    q, scale_x = quantize_activations(x, weight.activation)
    if weight.scale.shape[1] == 1 and weight.zero is None:
        return _integer_sums(q, weight.grid) * (scale_x * weight.scale[:, 0])
    size = weight.group or q.shape[-1]
    y = None
    for j, (part, grid) in enumerate(
        zip(q.split(size, -1), weight.grid.split(size, 1), strict=True)
    ):
        term = _integer_sums(part, grid) * _column(weight.scale, j)
        if weight.zero is not None:
            term = term - part.sum(-1, keepdim=True) * _column(weight.zero, j)
        y = term if y is None else y + term
    assert y is not None
    return y * scale_x


def _column(per_group: Tensor, j: int) -> Tensor:
    return per_group[:, j if per_group.shape[1] > 1 else 0]


def _integer_sums(q: Tensor, grid: Tensor) -> Tensor:
    """The sums of products of integers held as f32 [..., K] and [N, K], exact until rounded."""
    if grid.shape[1] * 127 * 127 <= _FLOAT32_EXACT:
        return F.linear(q, grid)
    return F.linear(q.double(), grid.double()).float()
