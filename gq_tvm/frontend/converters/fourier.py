"""Fourier transforms as matrix products with cosines and sines."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx

from gq_tvm.errors import Error
from gq_tvm.frontend.converters.complex_pair import Complex, Emit


def _real_to_complex(
    do: Emit, x: relax.Expr, axes: list[int], mode: int, onesided: bool
) -> Complex:
    *others, last = axes
    n = _length(x, last)
    bins = n // 2 + 1 if onesided else n
    cosine, sine = _waves(n, bins)
    y = _product(do, x, np.concatenate([cosine, -sine], axis=1), last)
    parts = [do(relax.op.strided_slice, y, [last], [i * bins], [(i + 1) * bins]) for i in range(2)]
    pair = _along(do, Complex(*parts), others, forward=True)
    return _scaled(do, pair, mode, n * math.prod(_length(x, one) for one in others))


def _complex_to_complex(do: Emit, x: Complex, axes: list[int], mode: int, forward: bool) -> Complex:
    size = math.prod(_length(x.real, one) for one in axes)
    return _scaled(do, _along(do, x, axes, forward), mode, size)


def _complex_to_real(do: Emit, x: Complex, axes: list[int], mode: int, n: int) -> relax.Expr:
    *others, last = axes
    size = n * math.prod(_length(x.real, one) for one in others)
    x = _along(do, x, others, forward=False)
    bins = n // 2 + 1
    cosine, sine = _waves(n, bins)
    # Every bin stands for its mirror image too, but the first and, of an even length, the last.
    weight = np.full(bins, 2.0)
    weight[0] = 1
    weight[n - bins + 1 :] = 1
    y = do.subtract(
        _product(do, x.real, (cosine * weight).T, last),
        _product(do, x.imaginary, (sine * weight).T, last),
    )
    return do.scaled(y, _factor(mode, size))


def _along(do: Emit, x: Complex, axes: list[int], forward: bool) -> Complex:
    """Transform along axes, one after the other."""
    for axis in axes:
        n = _length(x.real, axis)
        cosine, sine = _waves(n, n)
        sine = sine if forward else -sine
        x = Complex(
            do.add(_product(do, x.real, cosine, axis), _product(do, x.imaginary, sine, axis)),
            do.subtract(_product(do, x.imaginary, cosine, axis), _product(do, x.real, sine, axis)),
        )
    return x


def _product(do: Emit, x: relax.Expr, matrix: np.ndarray, axis: int) -> relax.Expr:
    """The matrix product of an axis of `x`, [.., n, ..], and `matrix`, [n, m]."""
    rank = x.ty.ndim
    order = [*(one for one in range(rank) if one != axis % rank), axis % rank]
    last = axis % rank == rank - 1
    moved = x if last else do(relax.op.permute_dims, x, order)
    y = do(relax.op.matmul, moved, relax.const(matrix.astype(np.float32)))
    return y if last else do(relax.op.permute_dims, y, [order.index(one) for one in range(rank)])


def _waves(n: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi t k / n, f64 [n, bins]."""
    phase = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(bins)) % n)
    return np.cos(phase), np.sin(phase)


def _scaled(do: Emit, x: Complex, mode: int, size: int) -> Complex:
    factor = _factor(mode, size)
    return Complex(do.scaled(x.real, factor), do.scaled(x.imaginary, factor))


def _factor(mode: int, size: int) -> float:
    """PyTorch's modes: as it is, by the root of the size, by the size."""
    return (1.0, size**-0.5, 1 / size)[mode]


def _length(x: relax.Expr, axis: int) -> int:
    size = x.ty.shape[axis]
    if not isinstance(size, int | tirx.IntImm):
        raise Error(
            "a Fourier transform along an axis whose size is known at run time only cannot be "
            "translated; give it a number of points (n, n_fft)"
        )
    return int(size)


RULES: dict[str, Callable[..., Any]] = {
    "_fft_r2c": _real_to_complex,
    "_fft_c2c": _complex_to_complex,
    "_fft_c2r": _complex_to_real,
}
