"""Batches of whole utterances: an epoch has each once, little padding, the same when resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.models.data.utterance_batches import Limits, UtteranceBatches
from gq_tvm.speech import FeatureSettings, audio
from gq_tvm.speech.corpora import Utterance

FEATURES = FeatureSettings(mean=(-5.0,) * 40, deviation=(1.0,) * 40)


def batches(
    seconds: Sequence[float], limits: Limits | None = None, seed: int = 0, folder: Path = Path()
) -> UtteranceBatches:
    spoken = [Utterance(folder / f"{n}.wav", "one", "") for n in range(len(seconds))]
    return UtteranceBatches(spoken, seconds, FEATURES, seed, limits or Limits(seconds=30))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.1, 20), min_size=1, max_size=60),
    st.integers(0, 3),
    st.floats(1, 60),
)
def test_an_epoch_has_each_utterance_once(seconds, epoch, size):
    if not any(0.5 <= length <= 17 for length in seconds):
        with pytest.raises(Error, match=r"no utterance has 0\.5 to 17 seconds"):
            batches(seconds, Limits(seconds=size))
        return
    one = batches(seconds, Limits(seconds=size))
    steps = range(epoch * one.steps_an_epoch, (epoch + 1) * one.steps_an_epoch)
    drawn = [one._numbers(step) for step in steps]
    used = [length for length in seconds if 0.5 <= length <= 17]
    assert Counter(np.concatenate(drawn).tolist()) == Counter(range(len(used)))
    for numbers in drawn:
        padded = len(numbers) * max(used[n] for n in numbers)
        assert len(numbers) == 1 or padded <= size * 1.2


def test_epochs_differ_and_the_first_may_go_from_short_to_long():
    seconds = list(np.random.default_rng(0).uniform(1, 16, 200))
    one = batches(seconds)
    count = one.steps_an_epoch
    means = [np.mean([seconds[n] for n in one._numbers(step)]) for step in range(count)]
    assert np.corrcoef(means, range(count))[0, 1] > 0.9
    means = [np.mean([seconds[n] for n in one._numbers(step)]) for step in range(count, 2 * count)]
    assert np.corrcoef(means, range(count))[0, 1] < 0.7
    first = {tuple(one._numbers(step)) for step in range(count, 2 * count)}
    second = {tuple(one._numbers(step)) for step in range(2 * count, 3 * count)}
    assert len(first & second) < count / 2
    other = one.with_seed(1, fresh=True)
    means = [np.mean([seconds[n] for n in other._numbers(step)]) for step in range(count)]
    assert np.corrcoef(means, range(count))[0, 1] > 0.9
    trained = one.with_seed(0, fresh=False)
    means = [np.mean([seconds[n] for n in trained._numbers(step)]) for step in range(count)]
    assert np.corrcoef(means, range(count))[0, 1] < 0.7
    assert not np.array_equal(other._numbers(0), one._numbers(0))


def test_batches_repeat_and_are_read_from_disk(tmp_path):
    rng = np.random.default_rng(0)
    seconds = list(rng.uniform(0.5, 2.0, 8))
    for number, length in enumerate(seconds):
        audio.write(tmp_path / f"{number}.wav", rng.normal(0, 0.1, round(8000 * length)), 8000)
    assert audio.duration(tmp_path / "0.wav") == pytest.approx(seconds[0], abs=1e-3)
    one = batches(seconds, Limits(seconds=6), folder=tmp_path)
    resumed = batches(seconds, Limits(seconds=6), folder=tmp_path)
    later = [one.draw(step) for step in range(9)][-1]
    again = resumed.draw(8)
    assert torch.equal(later.features, again.features)
    assert len(again.features) == len(again.frames) == len(again.tokens)
    mean, deviation = one.log_mel_statistics(3)
    assert (len(mean), len(deviation)) == (40, 40)
    (tmp_path / "0.wav").unlink()
    with pytest.raises(Error, match="no such file"):
        [one.draw(step) for step in range(9)]
