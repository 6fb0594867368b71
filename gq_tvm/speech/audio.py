"""Reading and writing recordings, and changing their sample rate."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile

from gq_tvm.errors import Error


def read(path: str | Path, sample_rate: int) -> np.ndarray:
    """Samples f32 [n] in [-1, 1] of a recording, channels averaged, at ``sample_rate`` Hz.

    Raises Error when the file is missing, unreadable or empty.
    """
    path = Path(path)
    if not path.exists():
        raise Error(f"{path}: there is no such file; check the path")
    if path.is_dir():
        raise Error(f"{path} is a folder; name a recording inside it")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from None
    if not len(samples):
        raise Error(f"{path} holds no samples; record it again")
    if not np.isfinite(samples).all():
        raise Error(f"{path} holds NaN or infinite samples; record or convert it again")
    return resample(samples.mean(axis=1), rate, sample_rate)


def duration(path: str | Path) -> float:
    """Seconds of a recording, from its header alone; raises Error as :func:`read` does."""
    path = Path(path)
    if not path.exists():
        raise Error(f"{path}: there is no such file; check the path")
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> Error:
    reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return Error(f"{path} cannot be read as audio ({reason}); give a WAV, FLAC or Ogg file")


def write(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write samples f32 [n] in [-1, 1] as a 16-bit recording."""
    soundfile.write(path, np.clip(samples, -1.0, 1.0), sample_rate, subtype="PCM_16")


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
