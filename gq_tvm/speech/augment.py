"""Making one recording sound like many: speaker, room, line, noise, level.

All functions take and give samples f32 [n] in [-1, 1] and draw from the generator handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gq_tvm.speech.resampling import resample


@dataclass(frozen=True)
class Augmentation:
    """Ranges that the random changes are drawn from.

    ``speed`` is a factor on tempo, pitch and formants together, as of a tape played faster;
    ``tempo`` one on the tempo alone; ``noise_db`` a signal-to-noise ratio.
    """

    speed: tuple[float, float] = (0.82, 1.32)
    tempo: tuple[float, float] = (0.6, 1.3)
    noise_db: tuple[float, float] = (8.0, 40.0)
    clean: float = 0.25  # share of utterances without added noise
    tilt_db: float = 3.0  # largest slope an octave, either way
    bump_db: float = 4.0  # largest rise or dip of a part of the spectrum
    reverberation: float = 0.2  # share of utterances
    peak_db: tuple[float, float] = (-32.0, -0.5)
    padding_s: tuple[float, float] = (-0.15, 0.4)  # at either end; negative counts as none


def draw_factor(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A factor, evenly distributed on a logarithmic scale."""
    low, high = np.log(limits)
    return float(np.exp(rng.uniform(low, high)))


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples as of a tape played ``factor`` times as fast."""
    return resample(samples, factor, 1.0)


def trim(samples: np.ndarray, sample_rate: int, threshold: float = 0.004) -> np.ndarray:
    """Samples without the silence at both ends; 20 ms of it stay.

    Silent is a stretch of 10 ms whose root mean square is below ``threshold`` times the peak.
    """
    size = max(1, sample_rate // 100)
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    loud = np.flatnonzero(np.sqrt((blocks**2).mean(1)) > threshold * np.abs(samples).max())
    if not len(loud):
        return samples
    return samples[max(0, loud[0] - 2) * size : (loud[-1] + 3) * size]


def distort(
    samples: np.ndarray, sample_rate: int, rng: np.random.Generator, ranges: Augmentation
) -> np.ndarray:
    """Silence at both ends, then room, line, noise and level, each drawn at random."""
    padding = np.maximum(rng.uniform(*ranges.padding_s, size=2), 0)
    before, after = (padding * sample_rate).astype(int)
    samples = np.pad(samples, (before, after))
    length = len(samples)
    size = 1 << (length + sample_rate // 4 - 1).bit_length()  # room for the reverberation's tail
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    response = line(hertz, rng, ranges)
    if rng.random() < ranges.reverberation:
        response = response * np.fft.rfft(room(sample_rate, rng), size)
    result = np.fft.irfft(np.fft.rfft(samples, size) * response, size)[:length]
    level = np.sqrt(np.mean(result**2)) * np.sqrt(length / max(1, length - before - after))
    if rng.random() >= ranges.clean:
        noise = coloured_noise(hertz, size, rng)[:length]
        ratio = 10 ** (-rng.uniform(*ranges.noise_db) / 20)
        result = result + noise * (ratio * level / (np.sqrt(np.mean(noise**2)) + 1e-12))
    peak = 10 ** (rng.uniform(*ranges.peak_db) / 20)
    return (result * (peak / (np.abs(result).max() + 1e-9))).astype(np.float32)


def line(hertz: np.ndarray, rng: np.random.Generator, ranges: Augmentation) -> np.ndarray:
    """Amplitude response of a random microphone and line: slope, bumps, band limits."""
    octaves = np.log2(np.maximum(hertz, 60.0) / 1000.0)
    decibels = rng.uniform(-ranges.tilt_db, ranges.tilt_db) * octaves
    for _ in range(3):
        centre, width = rng.uniform(-3.0, 2.0), rng.uniform(0.3, 1.0)
        height = rng.uniform(-ranges.bump_db, ranges.bump_db)
        decibels = decibels + height * np.exp(-(((octaves - centre) / width) ** 2))
    low, high = rng.uniform(20, 350), hertz[-1] * rng.uniform(0.75, 1.1)
    limits = 1 / np.sqrt(1 + (low / np.maximum(hertz, 1.0)) ** 6)
    limits = limits / np.sqrt(1 + (hertz / high) ** 24)
    return 10 ** (decibels / 20) * limits


def room(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """An impulse response: the direct sound, then decaying noise for up to 0.25 s."""
    times = np.arange(sample_rate // 4) / sample_rate
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / rng.uniform(0.08, 0.4))
    tail *= 10 ** (-rng.uniform(3, 20) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail


def coloured_noise(hertz: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise [size] whose power falls by 0 to 7 dB an octave, with a hum now and then."""
    amplitude = np.maximum(hertz, 50.0) ** -rng.uniform(0.0, 1.2)
    spectrum = amplitude * rng.standard_normal(2 * len(hertz)).view(complex)
    if rng.random() < 0.15:
        hum = rng.choice([50.0, 60.0]) * np.arange(1, 6)
        spectrum[np.searchsorted(hertz, hum)] *= rng.uniform(5, 30)
    return np.fft.irfft(spectrum, size)


def change_tempo(frames: np.ndarray, factor: float) -> np.ndarray:
    """Log-mel frames f32 [n, bins] as of speech ``factor`` times as fast, pitch unchanged."""
    if len(frames) < 2:
        return frames
    times = np.linspace(0, len(frames) - 1, max(2, round(len(frames) / factor)))
    left = np.minimum(times.astype(int), len(frames) - 2)
    share = (times - left)[:, None].astype(np.float32)
    return frames[left] * (1 - share) + frames[left + 1] * share


def mask_features(features: np.ndarray, bins: int, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment (Park et al. 2019) on stacked features [T, stack * bins]: masks are zeros.

    One band of up to five bins, and at most one stacked frame a second: more would hide what
    tells short words apart.
    """
    features = features.reshape(len(features), -1, bins).copy()
    width = rng.integers(0, 6)
    start = rng.integers(0, bins - width + 1)
    features[:, :, start : start + width] = 0
    for _ in range(-(-len(features) // 25)):
        if rng.random() < 0.5:
            features[rng.integers(len(features))] = 0
    return features.reshape(len(features), -1)
