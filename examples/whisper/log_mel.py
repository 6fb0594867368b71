"""Whisper's features: the log-mel spectrogram of half a minute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 16000  # Hz
_WINDOW, _HOP = 400, 160  # samples
SAMPLES = 30 * RATE  # a recording is padded to, or cut
FRAMES = SAMPLES // _HOP
_BLOCK = 500  # frames transformed at once, which bounds the memory


def log_mel(samples: NDArray[np.float32], mels: int = 80) -> NDArray[np.float32]:
    """Features f32 [1, mels, 3000] of samples at 16 kHz, f32 [n] in [-1, 1]; silence follows them.

    Frame t is centred on sample 160 t, the signal mirrored at its ends. Logarithms reach down to 8
    below their maximum, and are brought to about [-1, 1].
    """
    padded = np.zeros(SAMPLES, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    padded = np.pad(padded, _WINDOW // 2, "reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi / _WINDOW * np.arange(_WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[:SAMPLES:_HOP]
    bank = filters(mels)
    energies = np.empty((mels, len(frames)), np.float32)
    for first in range(0, len(frames), _BLOCK):
        spectrum = np.fft.rfft(frames[first : first + _BLOCK] * window)
        power = spectrum.real**2 + spectrum.imag**2
        energies[:, first : first + _BLOCK] = bank @ power.T
    logs = np.log10(np.maximum(energies, 1e-10))
    return ((np.maximum(logs, logs.max() - 8) + 4) / 4)[None]


def filters(mels: int) -> NDArray[np.float64]:
    """Triangles of equal area over the bins of a spectrum, f64 [mels, 201].

    Their corners are evenly spread over Slaney's scale: linear up to 1 kHz, 15 mels, and from there
    27 mels to a factor of 6.4.
    """
    bins = np.linspace(0, RATE / 2, _WINDOW // 2 + 1)
    top = 15 + 27 * np.log(RATE / 2 / 1000) / np.log(6.4)
    corners = np.linspace(0, top, mels + 2)
    hertz = np.where(corners < 15, corners * 200 / 3, 1000 * 6.4 ** ((corners - 15) / 27))
    low, centre, high = (hertz[i : i + mels, None] for i in range(3))
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
