"""Which synthetic voices a corpus hears: those of training are never evaluated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gq_tvm.errors import Error
from gq_tvm.models.data.corpus import Corpus
from gq_tvm.models.data.voices import HELD_OUT_VOICES, draw_voice
from gq_tvm.speech import synthetic
from gq_tvm.speech.corpora import DIGITS, Utterance
from gq_tvm.speech.synthetic import Voice

LOW = [Voice("espeak-ng", f"en-gb+{name}") for name in ("m1", "m2", "Denis")]
HIGH = [Voice("espeak-ng", f"en-gb+{name}") for name in ("f1", "f5", "Annie")]
FLITE = [Voice("flite", "rms"), Voice("flite", "slt")]


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    """What would be spoken, by whom; nothing is."""

    def said(texts_and_voices, cache):
        return [Utterance(Path(str(v)), text, str(v)) for text, v in texts_and_voices]

    monkeypatch.setattr(synthetic, "speak_all", said)
    monkeypatch.setattr(synthetic, "voices", lambda: ([*LOW, FLITE[0]], [*HIGH, FLITE[1]]))


def corpus(role: str, kind: str, folder: Path) -> Corpus:
    texts = folder / "texts.txt"
    texts.write_text("one\ntwo\nthree\n")
    source = texts if kind == "texts" else None
    return Corpus(
        "synthetic", role, "a", 1.0, kind == "joined", source, words=DIGITS, count=40, cache=folder
    )


def held_out(one: Utterance) -> bool:
    return one.speaker.split(":")[1].endswith(HELD_OUT_VOICES)


@pytest.mark.parametrize("kind", ["joined", "phrases", "texts"])
def test_evaluation_hears_the_voices_held_out_of_training(kind, tmp_path):
    trained = corpus("train", kind, tmp_path).utterances(3)
    assert not any(map(held_out, trained))
    assert {one.speaker.split(":")[0] for one in trained} == {"espeak-ng", "flite"}
    drawn = [
        corpus(role, kind, tmp_path).utterances(3, number)
        for role in ("development", "test")
        for number in (1, 2)
    ]
    for found in drawn:
        assert all(map(held_out, found))
        assert len({one.speaker.split(":")[1] for one in found}) == len(HELD_OUT_VOICES)
    speakers = [tuple(one.speaker for one in found) for found in drawn]
    assert len(set(speakers)) == 4
    assert drawn[3] == corpus("test", kind, tmp_path).utterances(3, 2)


def test_training_draws_what_it_always_drew(tmp_path):
    found = corpus("train", "joined", tmp_path).utterances(3, 5)
    rng = np.random.default_rng([3, 40, True])
    expected = [str(draw_voice(rng)) for _ in range(40)]
    assert [one.speaker for one in found[:: len(DIGITS)]] == expected
    assert expected[:3] == [
        "espeak-ng:en-gb+f1:1.35:1.24",
        "espeak-ng:en-gb+f1:1.31:1.07",
        "espeak-ng:en-gb+m1:1.39:1.11",
    ]


def test_no_voice_that_was_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "voices", lambda: (FLITE[:1], FLITE[1:]))
    assert len(corpus("train", "texts", tmp_path).utterances(3)) == 40
    with pytest.raises(Error, match=r"corpus a: no synthetic voice that training leaves .*install"):
        corpus("test", "texts", tmp_path).utterances(3)
