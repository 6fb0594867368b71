"""What evaluation hears is what a deployed recogniser hears, in batches of like lengths."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_networks import FEATURES, lively, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.models.allocation import allocate as allocation
from gq_tvm.models.data import loading as data
from gq_tvm.models.data.batches import of_like_length
from gq_tvm.models.torch_recogniser import deployed_features, recogniser
from gq_tvm.models.training import evaluation
from gq_tvm.models.training.evaluation import QuickEvaluation


class Said:
    text = "one"

    def samples(self, sample_rate: int) -> np.ndarray:
        return noise()


@pytest.fixture(scope="module")
def heard() -> np.ndarray:
    """The features that a deployed recogniser gives its decoder."""
    whole: list[np.ndarray] = []
    one = recogniser(lively("conformer ctc"), FEATURES)

    class Listening(one._decoding):  # type: ignore[name-defined]
        def accept(self, features):
            whole.append(features)

    one._decoding = Listening
    one.transcribe(noise())
    return np.concatenate(whole)


def test_features_are_as_deployed(heard):
    assert np.array_equal(deployed_features(noise(), FEATURES), heard)


def test_allocation_and_quick_evaluation_hear_the_same(heard, monkeypatch):
    seen: list[np.ndarray] = []

    def transcribe(model, features):
        seen.extend(features)
        return ["one"]

    monkeypatch.setattr(evaluation, "transcribe_batched", transcribe)
    sets = {"a": [Said()]}
    assert QuickEvaluation(sets, FEATURES, 1)(lively("conformer ctc")) == {"a": 0.0}
    monkeypatch.setattr(data, "recordings", lambda config, roles: [])
    monkeypatch.setattr(data, "evaluation_sets", lambda config, found, role: sets)
    (batch,) = allocation.development_batches(None, FEATURES, 1)  # type: ignore[arg-type]
    assert np.array_equal(seen[0], heard)
    assert np.array_equal(batch.features[0].numpy(), heard)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 120))
def test_batches_of_like_length(frames, most):
    batches = of_like_length(frames, most)
    order = [n for batch in batches for n in batch]
    assert sorted(order) == [n for n, length in enumerate(frames) if length]
    lengths = [frames[n] for n in order]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(one) == 1 or len(one) * frames[one[0]] <= most for one in batches)
    assert all((len(one) + 1) * frames[one[0]] > most for one in batches[:-1])
