"""Tables that quantisers multiply by scales of groups, in the units that make the product exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

# QLoRA, arXiv 2305.14314, appendix E: quantiles of a normal distribution.
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
_FP4 = (0.0, 0.0052083334885537624, 1 / 6, 0.25, 1 / 3, 0.5, 2 / 3, 1.0)  # of bitsandbytes
_E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)  # OCP Microscaling Formats 1.0, section 5.3.3
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # of GGUF
_CB4 = (  # of NNCF
    *(-3.5, -2.5, -1.875, -1.375, -1, -0.625, -0.3125, 0),
    *(0.28125, 0.5625, 0.875, 1.125, 1.5, 2, 2.5, 3.5),
)


def _rising(values: tuple[float, ...], mirrored: bool = False) -> F32:
    table = np.array(values, np.float32)
    return np.unique(np.concatenate([-table, table]) if mirrored else table)


def integers(bits: int) -> F32:
    """The integers of so many bits, in two's complement."""
    return np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.float32)


def _odd(bits: int) -> F32:
    """The odd integers about 0: levels half a step off it."""
    return np.arange(1 - 2**bits, 2**bits, 2, dtype=np.float32)


#: Rising, of the fewest bits first.
TABLES: tuple[F32, ...] = (
    _odd(1),
    integers(2),
    _odd(2),
    integers(3),
    _odd(3),
    integers(4),
    _odd(4),
    _rising(_NF4),
    _rising(_E2M1, mirrored=True),
    _rising(_IQ4_NL),
    _rising(_FP4, mirrored=True),
    _rising(_CB4),
    *(integers(bits) for bits in range(5, 9)),
)
