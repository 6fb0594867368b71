from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.speech import FeatureSettings, FeatureStream, extract
from gq_tvm.speech.features import Level
from gq_tvm.speech.samples import LOUDEST

SETTINGS = FeatureSettings(mean=(9.0,) * 40, deviation=(3.0,) * 40)


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, length).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4000), st.lists(st.integers(0, 700), max_size=8))
def test_chunks_give_the_bits_of_the_whole(length, cuts):
    samples = noise(length)
    stream, start, pieces = FeatureStream(SETTINGS), 0, []
    for cut in [*cuts, length]:
        pieces.append(stream.accept(samples[start : start + cut]))
        start += cut
    np.testing.assert_array_equal(np.concatenate(pieces), extract(samples, SETTINGS))


def test_a_stacked_frame_each_forty_milliseconds():
    assert extract(noise(8000), SETTINGS).shape == (24, 160)  # 98 frames of 25 ms in a second
    assert extract(noise(199), SETTINGS).shape == (0, 160)


def test_later_samples_do_not_change_earlier_features():
    samples = noise(8000)
    changed = samples.copy()
    changed[4000:] *= 5
    before, after = extract(samples, SETTINGS), extract(changed, SETTINGS)
    np.testing.assert_array_equal(before[:11], after[:11])
    assert not np.array_equal(before[13:], after[13:])


def test_a_loud_recording_has_the_features_of_a_quiet_one():
    quiet = noise(8000)
    np.testing.assert_allclose(extract(8 * quiet, SETTINGS), extract(quiet, SETTINGS), atol=1e-3)


def test_near_silence_is_not_raised():
    """Whatever came before: after a minute of silence, silence looks like at the start."""
    level, silence = Level(SETTINGS), np.full((6000, 40), 3.0, np.float32)
    np.testing.assert_allclose(level.relative(silence), 3.0 - 12.0)


def test_the_level_rises_at_once_and_falls_slowly():
    level = Level(SETTINGS)
    loud, quiet = np.full((1, 40), 15.0, np.float32), np.full((100, 40), 10.0, np.float32)
    at_peak = level.relative(loud)[0, 0]
    after = level.relative(quiet)[:, 0]
    np.testing.assert_allclose(at_peak, -np.log(40), rtol=1e-5)
    np.testing.assert_allclose(after[0], at_peak - 5 + 0.007, rtol=1e-3)
    np.testing.assert_allclose(after[-1] - after[0], 0.7 * 0.99, rtol=1e-3)  # 0.7 nats a second


def test_silence_and_the_loudest_samples_are_finite():
    for level in (0, LOUDEST):
        assert np.isfinite(extract(np.full(4000, level, np.float32), SETTINGS)).all()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((2, 100), np.float32), "one channel"),
        (np.zeros(100, np.int16), "divide 16-bit integers by 32768"),
        (np.array([0.0, np.nan], np.float32), "the samples hold NaN, audio lies"),
        (np.array([-1e300]), r"the samples hold -1e\+300, audio lies"),
    ],
)
def test_odd_samples_are_refused(samples, words):
    with pytest.raises(Error, match=words):
        extract(samples, SETTINGS)


def test_settings_survive_json():
    assert FeatureSettings.from_dict(json.loads(json.dumps(SETTINGS.to_dict()))) == SETTINGS


def narrow(values):
    values.update(num_mel_bins=200)
    values["normalisation"].update(mean=[0] * 200, deviation=[1] * 200)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("stack"), "incomplete"),
        (lambda d: d.update(kind="mfcc"), "kind mfcc"),
        (lambda d: d["normalisation"].update(mean=[1.0]), "1 means"),
        (lambda d: d["normalisation"].update(mean=[1e301] * 40), "mean holds 1e"),
        (lambda d: d["normalisation"].update(mean=3), "mean is 3, it must be a list of numbers"),
        (
            lambda d: d["normalisation"].update(deviation=[0] * 40),
            "deviation holds 0, it must hold numbers from 0.000001 to 1000; export it again",
        ),
        (
            lambda d: d.update(sample_rate=8000.5),
            "sample_rate is 8000.5, it must be a whole number from 1000 to 768000; export",
        ),
        (lambda d: d.update(sample_rate=True), "sample_rate is True, it must be a whole"),
        (lambda d: d.update(low_hz=float("nan")), "low_hz is nan, it must be a number from 0 to"),
        (lambda d: d.update(frame_shift_ms=30), "frame_shift_ms is 30.0, it must be from frame_"),
        (lambda d: d.update(frame_length_ms=1, frame_shift_ms=1, sample_rate=1000), "2 to 32768"),
        (lambda d: d.update(high_hz=4001), "high_hz is 4001.0, it must be above low_hz and at"),
        (lambda d: d.update(high_hz=-3950), "high_hz is -3950.0, it must be above low_hz and at"),
        (narrow, "num_mel_bins is 200, it must be 3 or more, and few enough"),
    ],
)
def test_odd_settings_are_refused(change, words):
    values = SETTINGS.to_dict()
    change(values)
    with pytest.raises(Error, match=words):
        FeatureSettings.from_dict(values)


def test_speech_needs_no_torch():
    code = "import sys, gq_tvm.speech, gq_tvm.speech.audio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
