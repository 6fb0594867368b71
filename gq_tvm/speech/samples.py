"""What samples may be."""

from __future__ import annotations

import numpy as np

from gq_tvm.errors import Error

# Integers of 32 bits given as floats are below it. With frames of up to 32,768 samples the energies
# of what is below it are finite in float32 (Parseval).
LOUDEST = 1e10


def first_odd(samples: np.ndarray) -> int | None:
    """Where in samples f32 [...], flattened, the first is that cannot be sound; None: nowhere."""
    size = np.abs(samples)
    if size.max(initial=0.0) <= LOUDEST:  # which no NaN is
        return None
    return int((~(size <= LOUDEST)).argmax())


def spelled(value: float) -> str:
    """A sample as sentences name it."""
    return "NaN" if np.isnan(value) else f"{value:.3g}"


def check_samples(samples: np.ndarray) -> np.ndarray:
    """Samples as contiguous f32 [n]; raises Error unless one channel of floats that are sound."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise Error(
            f"the recogniser takes one channel of samples, got an array of shape "
            f"{list(samples.shape)}; mix the channels down first"
        )
    if samples.dtype.kind != "f":
        raise Error(
            f"the recogniser takes float samples in [-1, 1], got {samples.dtype}; "
            "divide 16-bit integers by 32768"
        )
    if (at := first_odd(samples)) is not None:
        raise Error(
            f"the samples hold {spelled(samples[at])}, audio lies in [-1, 1]; check the recording"
        )
    return np.ascontiguousarray(samples, np.float32)
