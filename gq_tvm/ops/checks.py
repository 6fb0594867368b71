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


def check_bits(op: str, bits: int) -> None:
    """Refuse a bit-width outside 1..8."""
    if not 1 <= bits <= 8:
        raise Error(f"{op}: bits must be from 1 to 8, got {bits}.")


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


def check_weight(op: str, indices: Any, codebook: Any, bits: int, ndim: int = 2) -> None:
    """Refuse indices (u8, ``ndim`` axes) and codebook (f32 [1 or N, 2^bits]) that do not match."""
    check_bits(op, bits)
    check_dtype(op, indices=(indices, "uint8"), codebook=(codebook, "float32"))
    check_shape(op, "indices", indices.shape, (None,) * ndim)
    check_shape(op, "codebook", codebook.shape, (None, 2**bits))
    rows = indices.shape[0]
    if codebook.shape[0] not in (1, rows):
        raise Error(
            f"{op}: codebook must have 1 row or one for each of the {rows} rows of indices, "
            f"got {codebook.shape[0]}."
        )


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


def check_linear_shapes(
    op: str, x: Any, indices: Any, codebook: Any, bias: Any, bits: int, activation: str
) -> None:
    """Everything ``codebook_linear`` demands, short of the values in ``indices``."""
    check_activation(op, activation)
    check_dtype(op, x=(x, "float32"), bias=(bias, "float32"))
    check_weight(op, indices, codebook, bits)
    check_shape(op, "x", x.shape, (*[None] * (len(x.shape) - 1), indices.shape[1]))
    if bias is not None:
        check_shape(op, "bias", bias.shape, (indices.shape[0],))


def check_lstm_shapes(
    op: str, x: Any, h0: Any, c0: Any, indices_ih: Any, indices_hh: Any, bias: Any
) -> None:
    """The shapes that tie the two weights of an LSTM to its input and state."""
    check_dtype(op, h0=(h0, "float32"), c0=(c0, "float32"), bias=(bias, "float32"))
    check_shape(op, "x", x.shape, (None, None, None))
    check_shape(op, "h0", h0.shape, (x.shape[0], None))
    hidden = h0.shape[1]
    check_shape(op, "c0", c0.shape, (x.shape[0], hidden))
    check_shape(op, "indices_ih", indices_ih.shape, (4 * hidden, x.shape[2]))
    check_shape(op, "indices_hh", indices_hh.shape, (4 * hidden, hidden))


def check_gru_shapes(op: str, x: Any, h0: Any, indices_ih: Any, indices_hh: Any) -> None:
    """The shapes that tie the two weights of a GRU to its input and state."""
    check_dtype(op, h0=(h0, "float32"))
    check_shape(op, "x", x.shape, (None, None, None))
    check_shape(op, "h0", h0.shape, (x.shape[0], None))
    hidden = h0.shape[1]
    check_shape(op, "indices_ih", indices_ih.shape, (3 * hidden, x.shape[2]))
    check_shape(op, "indices_hh", indices_hh.shape, (3 * hidden, hidden))


def check_conv1d(
    op: str,
    x: Any,
    indices: Any,
    codebook: Any,
    bias: Any,
    bits: int,
    groups: int,
    activation: str,
) -> None:
    """Everything ``codebook_conv1d`` demands, short of the values in ``indices``."""
    check_activation(op, activation)
    check_dtype(op, x=(x, "float32"), bias=(bias, "float32"))
    check_weight(op, indices, codebook, bits, ndim=3)
    check_shape(op, "x", x.shape, (None, groups * indices.shape[1], None))
    if indices.shape[0] % groups:
        raise Error(f"{op}: {indices.shape[0]} output channels do not divide into {groups} groups.")
    if bias is not None:
        check_shape(op, "bias", bias.shape, (indices.shape[0],))
    if groups > 1 and activation != "fp32":
        raise Error(f'{op}: a convolution in {groups} groups has activation "fp32" only.')


def check_frames(op: str, frames: Any) -> None:
    """Refuse an input shorter than the kernel."""
    if frames < 1:
        raise Error(f"{op}: x has fewer frames than the kernel spans; pad it.")
