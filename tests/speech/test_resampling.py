from __future__ import annotations

import numpy as np
import pytest

from gq_tvm.speech import resampling
from gq_tvm.speech.resampling import resample, resampled_pieces


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype("f4")


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_resampling_keeps_a_tone(rate):
    result = resample(tone(440, rate), rate, 8000)
    expected = tone(440, 8000)
    assert len(result) == len(expected)
    middle = slice(400, -400)  # where a tone starts and stops it has all frequencies
    assert np.abs(result - expected)[middle].max() < 0.01


def test_resampling_cuts_off_what_the_new_rate_cannot_hold():
    result = resample(tone(6000, 16000), 16000, 8000)
    assert np.abs(result[400:-400]).max() < 0.01


@pytest.mark.parametrize("seconds", [0.3, 3.0, 7.2])
def test_blocks_of_a_long_recording_join_as_if_resampled_whole(seconds, monkeypatch):
    monkeypatch.setattr(resampling, "_BLOCK_S", 2)
    rng = np.random.default_rng(0)
    samples = tone(440, 11025, seconds) + rng.normal(0, 0.01, round(11025 * seconds)).astype("f4")
    pieces = np.split(samples, [0, 100, 2000])
    whole = resample(samples, 11025, 8000)
    joined = np.concatenate([*resampled_pieces(pieces, 11025, 8000)])
    assert len(joined) == len(whole)
    assert np.abs(joined - whole).max() < (1e-3 if seconds > 3 else 1e-9)
