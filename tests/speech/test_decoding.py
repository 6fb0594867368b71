"""Decoding with hand-made networks, whose right answers are plain."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.speech import FeatureSettings, Recogniser, tokens
from gq_tvm.speech.decoding import (
    MAX_ENCODER_FRAMES,
    MAX_TOKENS_PER_FRAME,
    CTCDecoder,
    Decoder,
    Network,
    RNNTDecoder,
)

STATES = {name: {"h": [1, 1, 1], "c": [1, 1, 1]} for name in ("encoder", "predictor")}
TOKENS = ["<blank>", "a", "b", "c"]


def counting_encoder(features, h, c):
    """Passes the features on; the state counts the frames."""
    assert 1 <= features.shape[1] <= MAX_ENCODER_FRAMES
    assert features.flags.c_contiguous
    return features, h + features.shape[1], c


def last_token(token, h, c):
    assert token.dtype == np.int64
    return np.full((1, 1, 4), token[0, 0], np.float32), h + 1, c


def say_once(f, g):
    """The token whose feature is on, unless it was the last one said."""
    logits = np.array([0.5, 0, 0, 0], np.float32) + f[0, 0]
    if g[0, 0, 0] > 0:
        logits[int(g[0, 0, 0])] = 0
    return logits[None, None]


def one_hot(numbers) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[list(numbers)]


NETWORKS: dict[str, Network] = {
    "encoder": counting_encoder,
    "predictor": last_token,
    "joint": say_once,
}


def decoder(joint=say_once) -> RNNTDecoder:
    return RNNTDecoder(NETWORKS | {"joint": joint}, STATES)


def ctc() -> CTCDecoder:
    return CTCDecoder({"encoder": counting_encoder}, STATES)


def test_tokens_come_out_with_their_frames():
    greedy = decoder()
    assert greedy.accept(one_hot([1, 0, 2, 2, 3])) == [1, 2, 3]
    assert greedy.accept(one_hot([3, 1])) == [1]
    assert greedy.tokens == [1, 2, 3, 1]


def test_ctc_counts_repeats_once_and_blanks_not():
    greedy = ctc()
    assert greedy.accept(one_hot([0, 1, 1, 0, 1, 2, 2, 3])) == [1, 1, 2, 3]
    assert greedy.accept(one_hot([3, 3, 0, 3])) == [3]  # the first two are of the call before
    assert greedy.accept(one_hot([0, 0])) == []
    assert greedy.tokens == [1, 1, 2, 3, 3]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=40))
def test_ctc_is_the_collapse_of_the_path(numbers):
    greedy = ctc()
    greedy.accept(one_hot(numbers).reshape(-1, 4))
    assert greedy.tokens == [token for token, _ in groupby(numbers) if token]


@pytest.mark.parametrize("make", [decoder, ctc])
@settings(deadline=None, max_examples=30)
@given(
    numbers=st.lists(st.integers(0, 3), max_size=40),
    cuts=st.lists(st.integers(0, 9), max_size=6),
)
def test_cuts_change_nothing(make, numbers, cuts):
    whole: Decoder = make()
    cut: Decoder = make()
    features = one_hot(numbers).reshape(-1, 4)
    whole.accept(features)
    start = 0
    for length in [*cuts, 40]:
        cut.accept(features[start : start + length])
        start += length
    assert cut.tokens == whole.tokens


def test_long_input_is_split_for_the_encoder():
    greedy = decoder()
    greedy.accept(one_hot([1, 2] * MAX_ENCODER_FRAMES))
    assert len(greedy.tokens) == 2 * MAX_ENCODER_FRAMES
    assert greedy._encoder.state[0].item() == 2 * MAX_ENCODER_FRAMES


def test_a_model_that_never_says_blank_ends():
    greedy = decoder(lambda f, g: np.array([[[0, 1, 0, 0]]], np.float32))
    greedy.accept(one_hot([0, 0]))
    assert greedy.tokens == [1] * (2 * MAX_TOKENS_PER_FRAME)


def test_nan_scores_do_not_hang():
    greedy = decoder(lambda f, g: np.full((1, 1, 4), np.nan, np.float32))
    greedy.accept(one_hot([0, 0]))


FEATURES = FeatureSettings(num_mel_bins=4, stack=1, mean=(9.0,) * 4, deviation=(3.0,) * 4)
METADATA = {
    "task": "rnnt",
    "tokens": TOKENS,
    "blank": 0,
    "features": FEATURES.to_dict(),
    "chunk_frames": 3,
    "lead_ms": 20,
    "tail_ms": 30,
    "states": STATES,
}


def recogniser(**changes) -> Recogniser:
    return Recogniser(METADATA | changes, NETWORKS)


@pytest.mark.parametrize("task", ["rnnt", "ctc"])
@settings(deadline=None, max_examples=20)
@given(length=st.integers(0, 3000), cuts=st.lists(st.integers(0, 900), max_size=5))
def test_streaming_gives_the_text_of_the_whole(task, length, cuts):
    samples = np.random.default_rng(length).normal(0, 0.1, length).astype(np.float32)
    session, start = recogniser(task=task).session(), 0
    for cut in [*cuts, length]:
        session.accept(samples[start : start + cut])
        start += cut
    assert session.finish() == recogniser(task=task).transcribe(samples)


def noise() -> np.ndarray:
    return np.random.default_rng(5).normal(0, 0.1, 4000).astype(np.float32)


def test_text_grows_while_speech_arrives():
    samples = noise()
    session = recogniser().session()
    texts = [session.accept(samples[i : i + 400]) for i in range(0, 4000, 400)]
    assert texts[-1] != ""
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_a_session_spells_each_token_once(monkeypatch):
    """A chunk costs the same after an hour as after a minute."""
    spelled: list[int] = []
    spell = tokens.spell

    def counted(numbers, known):
        spelled.extend(numbers)
        return spell(numbers, known)

    monkeypatch.setattr(tokens, "spell", counted)
    one = recogniser(task="ctc", tokens=["", " a ", " b ", " c "])
    session = one.session()
    texts = [session.accept(noise()[i : i + 400]) for i in range(0, 4000, 400)]
    assert spelled == session._decoder.tokens
    assert " " in texts[-1]
    assert texts == [text.strip() for text in texts]
    assert session.finish() == one.transcribe(noise())


def test_a_finished_session_says_so():
    session = recogniser().session()
    session.finish()
    with pytest.raises(Error, match="session is finished"):
        session.accept(np.zeros(10, np.float32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "classify"}, "task is 'classify'; only RNN transducers"),
        ({"task": ["rnnt"]}, "only RNN transducers"),
        ({"features": {}}, "feature description is incomplete"),
        ({"features": None}, "feature description is incomplete"),
        ({"chunk_frames": 0}, "chunk_frames is 0, it must be a whole number from 1 to 512; export"),
        ({"chunk_frames": []}, r"chunk_frames is \[\], it must be a whole number"),
        ({"tail_ms": 1e9}, "tail_ms is 1000000000.0, it must be a number from 0 to 60000; export"),
        ({"lead_ms": -5}, "lead_ms is -5, it must be a number"),
        ({"tail_ms": float("inf")}, "tail_ms is inf, it must be a number"),
        ({"tokens": []}, r"tokens is \[\], it must be a list of texts"),
        ({"tokens": "abc"}, "tokens is abc, it must be a list of texts"),
        ({"tokens": ["", 1]}, "tokens holds 1, it must hold texts; export it again"),
        ({"tokens": ["", "\ud800"]}, "it must hold texts"),
        ({"blank": 2}, "blank is 2, it must be 0"),
        ({"states": []}, "lacks the state shapes of its encoder"),
        ({"states": {}}, "lacks the state shapes of its encoder"),
        (
            {"states": STATES | {"predictor": {"h": 3}}},
            "states.predictor.h is 3, it must be a list",
        ),
        (
            {"states": STATES | {"encoder": {"h": [1, -1]}}},
            "states.encoder.h is -1, it must be a w",
        ),
        ({"states": STATES | {"encoder": {"h": [9999] * 3}}}, "it must be at most 67108864 values"),
    ],
)
def test_other_models_are_refused(changes, words):
    with pytest.raises(Error, match=words):
        recogniser(**changes)


def test_metadata_must_be_whole():
    with pytest.raises(Error, match="lacks tokens, states"):
        Recogniser({"task": "rnnt", "features": {}}, NETWORKS)
    with pytest.raises(Error, match="has no predictor and no joint"):
        Recogniser(METADATA, {"encoder": counting_encoder})
    with pytest.raises(Error, match="a token that is none of its 2"):
        recogniser(tokens=TOKENS[:2]).transcribe(noise())
