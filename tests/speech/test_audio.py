from __future__ import annotations

import numpy as np
import pytest
import soundfile

from gq_tvm.errors import Error
from gq_tvm.speech import audio


def tone(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype("f4")


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_resampling_keeps_a_tone(rate):
    result = audio.resample(tone(440, rate), rate, 8000)
    expected = tone(440, 8000)
    assert len(result) == len(expected)
    middle = slice(400, -400)  # where a tone starts and stops it has all frequencies
    assert np.abs(result - expected)[middle].max() < 0.01


def test_resampling_cuts_off_what_the_new_rate_cannot_hold():
    result = audio.resample(tone(6000, 16000), 16000, 8000)
    assert np.abs(result[400:-400]).max() < 0.01


def test_reading_mixes_channels_and_resamples(tmp_path):
    path = tmp_path / "a.wav"
    left = tone(440, 16000)
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 16000)
    samples = audio.read(path, 8000)
    assert samples.dtype == np.float32
    assert np.abs(samples - tone(440, 8000) / 2)[400:-400].max() < 0.01


def test_what_is_written_is_read(tmp_path):
    audio.write(tmp_path / "a.wav", tone(100, 8000), 8000)
    assert np.abs(audio.read(tmp_path / "a.wav", 8000) - tone(100, 8000)).max() < 1e-4


def test_missing_recording(tmp_path):
    with pytest.raises(Error, match=r"no such file; check the path"):
        audio.read(tmp_path / "a.wav", 8000)


def test_folder(tmp_path):
    with pytest.raises(Error, match="is a folder"):
        audio.read(tmp_path, 8000)


@pytest.mark.parametrize("content", [b"", b"RIFFxxxxWAVE", b"not audio at all" * 100])
def test_damaged_recording(tmp_path, content):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(Error, match="cannot be read as audio"):
        audio.read(path, 8000)


def test_empty_recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 8000)
    with pytest.raises(Error, match="holds no samples"):
        audio.read(tmp_path / "a.wav", 8000)


def test_recording_with_nan(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(10, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(Error, match="NaN"):
        audio.read(tmp_path / "a.wav", 8000)
