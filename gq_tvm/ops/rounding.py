"""How rows of floats become rows of integers: the definition, in NumPy.

The schemes (dynamic, symmetric, per row; codebooks on an int8 grid) are our choice, not the GQ
paper's. All operations are float32, so that a kernel can be held to every bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gq_tvm.errors import Error

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]

# Rows smaller than this count as zero: 127 / amax stays finite and no subnormal matters.
SMALLEST_LIVE = np.float32(2.0**-100)
# Steps of the grid a mean is taken on: as many as keep the sums of an int8 product's rows in int32.
MEAN_STEPS = 127**2
# The step of "int2" over the mean magnitude. Of a normal row, 0.624 loses least (J. Max, 1960).
INT2_STEP = 0.625


def quantize_rows(x: F32) -> tuple[I8, F32]:
    """Quantise each row (last axis) to int8, symmetric, round half to even.

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` i8 [..., K] in [-127, 127] and ``scale`` f32 [...] with ``x ~ q * scale``. A row
        below 2^-100 has q = 0, scale = 0; a row with NaN or infinity has q = 0, scale = NaN.
    """
    x = np.asarray(x, np.float32)
    amax = np.abs(x).max(axis=-1, initial=np.float32(0))
    finite = np.isfinite(amax)
    live = finite & (amax >= SMALLEST_LIVE)
    safe = np.where(live, amax, np.float32(1))
    inv = np.float32(127) / safe
    scale = np.where(live, safe / np.float32(127), np.where(finite, np.float32(0), np.nan))
    rows = np.where(live[..., None], x, np.float32(0))
    return np.rint(rows * inv[..., None]).astype(np.int8), scale.astype(np.float32)


def mean_magnitudes(x: F32) -> F32:
    """The mean of |x| over each row (last axis), the same in whatever order it is summed.

    What is summed are integers: |x| on a grid of ``MEAN_STEPS`` steps up to the row's largest.
    It is off by half a step at most.

    Args:
        x: f32 [..., K].

    Returns:
        f32 [...]: 0 for a row below 2^-100, NaN for one with NaN or infinity.
    """
    x = np.asarray(x, np.float32)
    amax = np.abs(x).max(axis=-1, initial=np.float32(0))
    finite = np.isfinite(amax)
    live = finite & (amax >= SMALLEST_LIVE)
    safe = np.where(live, amax, np.float32(1))
    steps, k = np.float32(MEAN_STEPS), np.float32(max(1, x.shape[-1]))
    magnitudes = np.abs(np.where(live[..., None], x, np.float32(0)))
    total = np.rint(magnitudes * (steps / safe)[..., None]).astype(np.int64).sum(axis=-1)
    mean = (safe / steps) * (total.astype(np.float32) / k)
    return np.where(live, mean, np.where(finite, np.float32(0), np.nan)).astype(np.float32)


def quantize_rows_int1(x: F32) -> tuple[I8, F32]:
    """Keep the sign of each element, and one scale a row: what approximates it best.

    Zero counts as positive, -0 as well. The scale of least squared error for signs is the mean
    magnitude (Rastegari et al., XNOR-Net, 2016, section 3.1).

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` i8 [..., K], -1 or 1, and ``scale`` f32 [...], as ``mean_magnitudes`` gives it: 0 or
        NaN decides about a row whatever its q.
    """
    x = np.asarray(x, np.float32)
    return np.where(x < 0, -1, 1).astype(np.int8), mean_magnitudes(x)


def quantize_rows_int2(x: F32) -> tuple[I8, F32]:
    """Round each element to the nearest of -3, -1, 1, 3 times a step; one step a row.

    The step is 5/8 of the mean magnitude. Zero counts as positive, -0 as well, and what lies
    halfway between 1 and 3 steps becomes 1.

    Args:
        x: f32 [..., K].

    Returns:
        ``q`` i8 [..., K], one of -3, -1, 1, 3, and ``scale`` f32 [...]: 0 or NaN where
        ``mean_magnitudes`` is, whatever the row's q.
    """
    x = np.asarray(x, np.float32)
    scale = mean_magnitudes(x) * np.float32(INT2_STEP)
    with np.errstate(over="ignore"):  # beyond the largest float there is no x
        q = np.where(np.abs(x) > (scale + scale)[..., None], 3, 1)
    return np.where(x < 0, -q, q).astype(np.int8), scale


#: How each integer kind of activations rounds: f32 [..., K] -> q i8 [..., K], scale f32 [...].
ROW_QUANTIZERS: dict[str, Callable[[F32], tuple[I8, F32]]] = {
    "int8": quantize_rows,
    "int2": quantize_rows_int2,
    "int1": quantize_rows_int1,
}


def quantize_codebook(codebook: F32) -> tuple[I8, F32]:
    """Put each codebook row on an int8 grid.

    Args:
        codebook: f32 [G, 2^bits].

    Returns:
        i8 [G, 2^bits] and the scale of each row, f32 [G].

    Raises:
        Error: a centroid is NaN or infinite.
    """
    grid, scale = quantize_rows(codebook)
    _check_finite(scale)
    return grid, scale


def _check_finite(codebook: F32) -> None:
    if not np.isfinite(codebook).all():
        raise Error("codebook: a centroid is NaN or infinite; the model cannot be quantised.")
