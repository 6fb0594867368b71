"""The interval of a word error rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.speech import bootstrap_interval, word_error_rate

TEXTS = st.lists(st.sampled_from(["one", "two", "six"]), min_size=1, max_size=5).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS | st.just("")), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_an_interval_lies_within_what_utterances_can_give(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    low, high = bootstrap_interval(references, hypotheses, resamples=50)
    single = [word_error_rate([r], [h]) for r, h in pairs]
    assert min(single) - 1e-9 <= low <= high <= max(single) + 1e-9
    if len(set(single)) == 1:  # all resamples agree then, and so does the rate itself
        assert low == pytest.approx(high) == pytest.approx(word_error_rate(references, hypotheses))


def test_an_interval_of_single_words_is_the_binomial_one():
    right = np.random.default_rng(3).random(400) < 0.9
    references = ["one"] * 400
    hypotheses = ["one" if ok else "two" for ok in right]
    low, high = bootstrap_interval(references, hypotheses, seed=1)
    rate = word_error_rate(references, hypotheses)
    half = 196 * np.sqrt(rate / 100 * (1 - rate / 100) / 400)
    assert low == pytest.approx(rate - half, abs=0.5)
    assert high == pytest.approx(rate + half, abs=0.5)


def test_an_interval_repeats_and_long_utterances_count_by_their_words():
    references = ["one two three four five six", "nine", "nine", "nine"]
    hypotheses = ["", "nine", "nine nine nine", "nine"]
    assert bootstrap_interval(references, hypotheses, seed=5) == bootstrap_interval(
        references, hypotheses, seed=5
    )
    low, high = bootstrap_interval(references, hypotheses)
    assert low < word_error_rate(references, hypotheses) < high
    assert high > 100  # insertions


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(Error, match="1 references and 0 hypotheses"):
        bootstrap_interval(["one"], [])
