"""How blocks of GGUF are weights in codebooks.

The ``gguf`` package knows each type's layout and multiplies it out. What a weight is made of is
read from that: with the bytes of the scales set to 1 it gives the codes, with those of the codes
set to one value the scales, and to the value 0 what is added (ggml's quants are at most
``scale * code + least``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_ONE = (0x00, 0x3C)  # as a float of 16 bits
_NIL = (0x00, 0x00)

#: Bytes of a block by where they begin; one value stands for many.
Bytes = tuple[tuple[slice, tuple[int, ...] | int], ...]


@dataclass(frozen=True)
class Form:
    """A type of blocks.

    Attributes:
        group: Values that share a scale.
        table: f32, rising: what codes are, times the scale.
        plain: What to set for a scale of 1 and nothing added.
        unit: What to set, in the codes, for values of 1 times the scale, and nothing added.
        nil: What to set in the codes for values of 0 times the scale; () where nothing is added.
    """

    group: int
    table: NDArray[np.float32]
    plain: Bytes
    unit: Bytes
    nil: Bytes = field(default=())


def _integers(first: int, last: int) -> NDArray[np.float32]:
    return np.arange(first, last + 1, dtype=np.float32)


_NON_LINEAR = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_E2M1 = np.array([-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12], np.float32)

# Scales of 6 bits in 12 bytes, those of Q4_K and Q5_K: all 1, and what is taken off all 0.
_SCALES_1 = (*[1] * 4, *[0] * 4, *[1] * 4)

#: By the type's name.
FORMS: dict[str, Form] = {
    "Q4_0": Form(32, _integers(-8, 7), ((slice(0, 2), _ONE),), ((slice(2, 18), 0x99),)),
    "Q4_1": Form(
        32,
        _integers(0, 15),
        ((slice(0, 2), _ONE), (slice(2, 4), _NIL)),
        ((slice(2, 4), _NIL), (slice(4, 20), 0x11)),
        ((slice(4, 20), 0),),
    ),
    "Q5_0": Form(
        32,
        _integers(-16, 15),
        ((slice(0, 2), _ONE),),
        ((slice(2, 6), 0xFF), (slice(6, 22), 0x11)),
    ),
    "Q5_1": Form(
        32,
        _integers(0, 31),
        ((slice(0, 2), _ONE), (slice(2, 4), _NIL)),
        ((slice(2, 4), _NIL), (slice(4, 8), 0), (slice(8, 24), 0x11)),
        ((slice(4, 24), 0),),
    ),
    "Q8_0": Form(32, _integers(-128, 127), ((slice(0, 2), _ONE),), ((slice(2, 34), 1),)),
    "IQ4_NL": Form(32, _NON_LINEAR, ((slice(0, 2), _ONE),), ((slice(2, 18), 0x88),)),
    "MXFP4": Form(32, _E2M1, ((slice(0, 1), 128),), ((slice(1, 17), 0x11),)),
    "TQ2_0": Form(128, _integers(-1, 2), ((slice(64, 66), _ONE),), ((slice(0, 64), 0xAA),)),
    "Q2_K": Form(
        16,
        _integers(0, 3),
        ((slice(0, 16), 1), (slice(80, 82), _ONE), (slice(82, 84), _NIL)),
        ((slice(16, 80), 0x55), (slice(82, 84), _NIL)),
        ((slice(16, 80), 0),),
    ),
    "Q3_K": Form(
        16,
        _integers(-4, 3),
        ((slice(96, 104), 0x11), (slice(104, 108), 0xAA), (slice(108, 110), _ONE)),
        ((slice(0, 32), 0xFF), (slice(32, 96), 0x55)),
    ),
    "Q4_K": Form(
        32,
        _integers(0, 15),
        ((slice(0, 2), _ONE), (slice(2, 4), _NIL), (slice(4, 16), _SCALES_1)),
        ((slice(2, 4), _NIL), (slice(16, 144), 0x11)),
        ((slice(16, 144), 0),),
    ),
    "Q5_K": Form(
        32,
        _integers(0, 31),
        ((slice(0, 2), _ONE), (slice(2, 4), _NIL), (slice(4, 16), _SCALES_1)),
        ((slice(2, 4), _NIL), (slice(16, 48), 0), (slice(48, 176), 0x11)),
        ((slice(16, 176), 0),),
    ),
    "Q6_K": Form(
        16,
        _integers(-32, 31),
        ((slice(192, 208), 1), (slice(208, 210), _ONE)),
        ((slice(0, 128), 0x11), (slice(128, 192), 0xAA)),
    ),
    "IQ4_XS": Form(
        32,
        _NON_LINEAR,
        ((slice(0, 2), _ONE), (slice(2, 4), 0xAA), (slice(4, 8), 0x11)),
        ((slice(8, 136), 0x88),),
    ),
}
