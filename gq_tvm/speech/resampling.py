"""Changing the sample rate of a recording."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

# Seconds resampled at once, and of its neighbours on either side. With the silence that resample
# adds these are 34.02: times usual rates 2, 3, 5 and 7 over and over, which makes transforms fast.
_BLOCK_S = 30
_MARGIN_S = 2


def resample(samples: np.ndarray, rate: float, new_rate: float) -> np.ndarray:
    """Samples f32 [n] at ``rate`` as f32 [round(n * new_rate / rate)]; cut off in frequency.

    The whole signal is one Fourier series, whose upper terms are dropped or set to zero. With
    rates that are no whole numbers the sound may shift by a sample.
    """
    if rate == new_rate or not len(samples):
        return samples.astype(np.float32, copy=False)
    length = max(1, round(len(samples) * new_rate / rate))
    # The series is periodic: silence on both sides keeps the end from ringing into the start.
    # Both must be whole numbers of samples at both rates, or the sound would shift.
    unit = 1
    if isinstance(rate, int) and isinstance(new_rate, int):
        unit = rate // math.gcd(rate, new_rate)
    margin = math.ceil(max(16, round(0.01 * rate)) / unit) * unit
    padded = np.pad(samples, (margin, margin + -len(samples) % unit))
    new_padded = round(len(padded) * new_rate / rate)
    spectrum = np.fft.rfft(padded)
    bins = new_padded // 2 + 1
    spectrum = spectrum[:bins] if bins < len(spectrum) else spectrum
    result = np.fft.irfft(spectrum, new_padded) * (new_padded / len(padded))
    start = round(margin * new_rate / rate)
    return result[start : start + length].astype(np.float32)


def resampled_pieces(given: Iterable[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Samples f32 [n] a piece at another rate.

    What is not longer than a block is resampled whole; of what is, block by block with some of
    its neighbours; whole seconds are whole samples at both rates.
    """
    if rate == new_rate:
        yield from given
        return
    held, before = np.empty(0, np.float32), 0  # seconds of held that are out already
    for piece in given:
        held = np.concatenate([held, piece])
        while len(held) > rate * (before + _BLOCK_S + _MARGIN_S):
            block = resample(held[: rate * (before + _BLOCK_S + _MARGIN_S)], rate, new_rate)
            yield block[new_rate * before : new_rate * (before + _BLOCK_S)]
            held = held[rate * (before + _BLOCK_S - _MARGIN_S) :]
            before = _MARGIN_S
    yield resample(held, rate, new_rate)[new_rate * before :]
