"""Memory that kernels can use where it lies."""

from __future__ import annotations

from math import prod

import numpy as np

ALIGNMENT = 64  # bytes; what kernels assume of every tensor


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros whose memory is aligned as kernels want it."""
    size = prod(shape) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def shareable(array: np.ndarray) -> bool:
    """Whether kernels can use an array where it lies."""
    return bool(array.size and array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0)
