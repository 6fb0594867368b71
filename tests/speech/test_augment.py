from __future__ import annotations

import numpy as np

from gq_tvm.speech import augment
from gq_tvm.speech.augment import Augmentation


def voice(length: int = 4000) -> np.ndarray:
    times = np.arange(length) / 8000
    return (0.3 * np.sin(2 * np.pi * 200 * times) * np.hanning(length)).astype(np.float32)


def peak_hertz(samples: np.ndarray) -> float:
    return np.argmax(np.abs(np.fft.rfft(samples, 80000))) / 10


def test_speed_moves_pitch_and_length():
    fast = augment.change_speed(voice(), 1.25)
    assert abs(len(fast) - 3200) <= 1
    assert abs(peak_hertz(fast) - 250) < 2


def test_distortion_repeats_with_the_seed_and_stays_in_range():
    for seed in range(30):
        first, again = (
            augment.distort(voice(), 8000, np.random.default_rng(seed), Augmentation())
            for _ in range(2)
        )
        np.testing.assert_array_equal(first, again)
        assert first.dtype == np.float32
        assert 4000 <= len(first) <= 4000 + 2 * 0.4 * 8000
        assert 0.02 < np.abs(first).max() <= 1.0


def test_noise_has_the_level_asked_for():
    ranges = Augmentation(
        noise_db=(20, 20), clean=0, tilt_db=0, reverberation=0, padding_s=(0.2, 0.2)
    )
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(20):
        result = augment.distort(voice(8000), 8000, rng, ranges)
        noise, speech = result[:1500], result[1600:-1600]
        ratios.append(10 * np.log10(np.mean(speech**2) / np.mean(noise**2)))
    assert 16 < np.median(ratios) < 24


def test_trimming_keeps_the_word():
    padded = np.pad(voice(), (3000, 5000))
    trimmed = augment.trim(padded, 8000)
    assert 3400 < len(trimmed) < 4500
    assert np.sum(trimmed**2) > 0.999 * np.sum(padded**2)
    assert len(augment.trim(np.zeros(500, np.float32), 8000)) == 500


def test_tempo_changes_length_alone():
    frames = np.linspace(0, 1, 50, dtype=np.float32)[:, None] * np.ones(40, np.float32)
    slow = augment.change_tempo(frames, 0.5)
    assert slow.shape == (100, 40)
    np.testing.assert_allclose(slow[:, 7], np.linspace(0, 1, 100), atol=1e-6)
    assert augment.change_tempo(frames[:1], 0.5).shape == (1, 40)


def test_masks_are_zeros_in_every_stacked_frame():
    features = np.ones((60, 160), np.float32)
    masks = [augment.mask_features(features, 40, np.random.default_rng(s)) for s in range(20)]
    assert (features == 1).all()
    for masked in (mask.reshape(60, 4, 40) for mask in masks):
        kept = masked[masked.any((1, 2))]
        assert 57 <= len(kept) <= 60
        assert (kept == kept[:1, :1]).all()  # the same band everywhere
        assert (kept[0, 0] == 0).sum() <= 5
    assert any((mask == 0).any() for mask in masks)
