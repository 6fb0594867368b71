"""What every codebook operator demands of its arguments, for NumPy and PyTorch alike.

The checks look at shapes and dtype names only, so they also run on symbolic sizes while a
program is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gq_tvm.errors import Error

#: Kinds of activations: as they are, or each row rounded to integers of so many bits.
ACTIVATIONS = ("fp32", "int8", "int2", "int1")

#: Inputs that may share a scale, a zero point or a table.
GROUPS = (16, 32, 64, 128)

#: Outputs that a group of a convolution has at least where vector kernels compute it.
FEWEST_OF_A_GROUP = 16

#: What scales and zero points may be stored as.
SCALES = ("float32", "float16", "uint8")

#: What shares a scale where a codebook is fitted: the weight, a row, so many inputs of a row.
SHARED_SCALES = ("tensor", "row", *GROUPS)


def check_activation(op: str, activation: str) -> None:
    """Refuse an activation kind that no kernel has."""
    if activation not in ACTIVATIONS:
        *others, last = (f'"{kind}"' for kind in ACTIVATIONS)
        known = f"{', '.join(others)} or {last}"
        raise Error(f'{op}: activation must be {known}, got "{activation}".')


def check_dtype(op: str, **arrays: tuple[Any, str]) -> None:
    """Refuse arrays of another dtype: ``check_dtype(op, x=(x, "float32"))``."""
    for name, (array, wanted) in arrays.items():
        if array is None:
            continue
        dtype = str(array.dtype).removeprefix("torch.")
        if dtype != wanted:
            raise Error(f"{op}: {name} must be {wanted}, got {dtype}.")


def check_shape(op: str, name: str, shape: Sequence[Any], wanted: Sequence[Any]) -> None:
    """Refuse a shape that differs from ``wanted``, where None stands for any size."""
    fits = len(shape) == len(wanted) and all(
        w is None or s == w for s, w in zip(shape, wanted, strict=True)
    )
    if not fits:
        got = ", ".join(map(str, shape))
        want = ", ".join("any" if w is None else str(w) for w in wanted)
        raise Error(f"{op}: {name} must have shape [{want}], got [{got}].")


def bits_of(codebook: Any) -> int:
    """Bits of an index into a codebook [..., 2^bits]."""
    return int(codebook.shape[-1] - 1).bit_length()


def groups_of(codebook: Any, scale: Any) -> int:
    """The groups of inputs that a codebook and a scale (None for 1) tell apart, at least 1."""
    tables = codebook.shape[1] if len(codebook.shape) == 3 else 1
    scales = scale.shape[1] if scale is not None and len(scale.shape) == 2 else 1
    return int(max(tables, scales))


def group_size(width: int, groups: int) -> int:
    """The inputs of each of ``groups`` groups of ``width`` inputs; 0 for one group.

    Raises:
        Error: no size of `GROUPS` gives so many groups, the last perhaps short.
    """
    if groups == 1:
        return 0
    for size in GROUPS:
        if -(-width // size) == groups:
            return size
    raise Error(
        f"{groups} groups do not fit {width} inputs: a group has {', '.join(map(str, GROUPS[:-1]))}"
        f" or {GROUPS[-1]} inputs, the last of a row may be short."
    )


def kept_as(array: Any, groups: int) -> str:
    """The dtype in which kernels read scales, or zero points (None for 0), of ``groups`` groups.

    It is that of the array, but for one group a row: those few are widened to float32.
    """
    return "float32" if array is None or groups == 1 else str(array.dtype).removeprefix("torch.")


def check_weight(
    op: str, indices: Any, codebook: Any, scale: Any, zero: Any = None, ndim: int = 2
) -> None:
    """Refuse arrays that make no ``weight.Weight``, short of their values.

    Args:
        op: Whom the refusal names.
        indices: u8, of ``ndim`` axes.
        codebook: f32 [T, 2^bits] or [1, T, 2^bits].
        scale: f32, f16 or u8 [1], [N] or [N, J]; None for 1.
        zero: As ``scale``, of its shape; None for 0.
        ndim: 2, of a convolution 3.

    Raises:
        Error: a shape or a dtype is wrong.
    """
    check_dtype(op, indices=(indices, "uint8"), codebook=(codebook, "float32"))
    check_shape(op, "indices", indices.shape, (None,) * ndim)
    if len(codebook.shape) == 3:
        check_shape(op, "codebook", codebook.shape, (1, None, None))
    else:
        check_shape(op, "codebook", codebook.shape, (None, None))
    if codebook.shape[-1] not in [2**bits for bits in range(1, 9)]:
        raise Error(
            f"{op}: codebook must have 2, 4, ... or 256 centroids, got {codebook.shape[-1]}."
        )
    rows, tables = indices.shape[0], codebook.shape[-2]
    if len(codebook.shape) == 2 and (tables < 1 or rows % tables):
        raise Error(
            f"{op}: codebook must have one table, or tables that share out the {rows} rows of "
            f"indices, got {tables}."
        )
    for name, array in (("scale", scale), ("zero", zero)):
        _check_scale(op, name, array, rows)
    if zero is not None:
        check_shape(op, "zero", zero.shape, (1,) if scale is None else tuple(scale.shape))
    _check_groups(op, indices, codebook, scale)


def _check_scale(op: str, name: str, array: Any, rows: int) -> None:
    if array is None:
        return
    dtype = str(array.dtype).removeprefix("torch.")
    if dtype not in SCALES:
        raise Error(f"{op}: {name} must be float32, float16 or uint8, got {dtype}.")
    shape = tuple(array.shape)
    if shape not in ((1,), (rows,)) and (len(shape) != 2 or shape[0] != rows or shape[1] < 1):
        got = ", ".join(map(str, shape))
        raise Error(f"{op}: {name} must have shape [1], [{rows}] or [{rows}, groups], got [{got}].")


def _check_groups(op: str, indices: Any, codebook: Any, scale: Any) -> None:
    width = 1
    for size in indices.shape[1:]:
        width *= size
    tables = groups_of(codebook, None)
    scales = scale.shape[1] if scale is not None and len(scale.shape) == 2 else tables
    if 1 < scales != tables > 1:
        raise Error(
            f"{op}: codebook has a table for each of {tables} groups of inputs, scale has {scales}."
        )
    try:
        group_size(width, groups_of(codebook, scale))
    except Error as refusal:
        raise Error(f"{op}: {refusal}") from None


def check_outliers(op: str, positions: Any, values: Any) -> None:
    """Refuse arrays that make no ``weight.Outliers``, short of their values; None for none.

    Args:
        op: Whom the refusal names.
        positions: i32 or i64 [M].
        values: f32 or f16 [M].

    Raises:
        Error: a shape or a dtype is wrong, or one of them is missing.
    """
    if positions is None and values is None:
        return
    if positions is None or values is None:
        raise Error(f"{op}: outliers have positions and values, one of them is missing.")
    for name, array, dtypes in (
        ("positions", positions, ("int32", "int64")),
        ("values", values, ("float32", "float16")),
    ):
        dtype = str(array.dtype).removeprefix("torch.")
        if dtype not in dtypes:
            raise Error(f"{op}: {name} of outliers must be {' or '.join(dtypes)}, got {dtype}.")
    check_shape(op, "positions of outliers", positions.shape, (None,))
    check_shape(op, "values of outliers", values.shape, tuple(positions.shape))


def check_positions(op: str, first: int, last: int, rising: bool, size: int) -> None:
    """Refuse positions of outliers that do not rise within the ``size`` weights."""
    if first < 0 or last >= size:
        wrong = first if first < 0 else last
        raise Error(f"{op}: an outlier at {wrong} is outside the {size} weights.")
    if not rising:
        raise Error(f"{op}: positions of outliers must rise.")


def check_largest_index(op: str, largest: int, bits: int) -> None:
    """Refuse an index that has no centroid."""
    if largest >= 2**bits:
        raise Error(
            f"{op}: index {largest} is beyond the {2**bits} centroids of a {bits}-bit codebook."
        )


def check_ids(op: str, smallest: int, largest: int, rows: int) -> None:
    """Refuse a token id that has no row in the embedding."""
    if smallest < 0 or largest >= rows:
        wrong = smallest if smallest < 0 else largest
        raise Error(f"{op}: id {wrong} is outside the {rows} rows of the embedding.")


def check_linear(op: str, x: Any, shape: Sequence[Any], bias: Any, activation: str) -> None:
    """What a product with a weight of indices [N, K] demands beside the weight."""
    check_activation(op, activation)
    check_dtype(op, x=(x, "float32"), bias=(bias, "float32"))
    check_shape(op, "x", x.shape, (*[None] * (len(x.shape) - 1), shape[1]))
    if bias is not None:
        check_shape(op, "bias", bias.shape, (shape[0],))


def check_convolution(
    op: str, x: Any, shape: Sequence[Any], bias: Any, groups: int, activation: str
) -> None:
    """What a convolution with a weight of indices [N, C / groups, ...] demands beside it."""
    check_activation(op, activation)
    check_dtype(op, x=(x, "float32"), bias=(bias, "float32"))
    check_shape(op, "x", x.shape, (None, groups * shape[1], *[None] * (len(shape) - 2)))
    if shape[0] % groups:
        raise Error(f"{op}: {shape[0]} output channels do not divide into {groups} groups.")
    if bias is not None:
        check_shape(op, "bias", bias.shape, (shape[0],))
    if groups > 1 == shape[1] and activation != "fp32":
        raise Error(f'{op}: a convolution of one channel a group has activation "fp32" only.')


def check_frames(op: str, *sizes: Any) -> None:
    """Refuse an input smaller than the kernel: one that would give these sizes."""
    if min(sizes) < 1:
        raise Error(f"{op}: x has fewer frames than the kernel spans; pad it.")
