"""Synthetic speakers for training: which voices are drawn, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gq_tvm.speech import synthetic
from gq_tvm.speech.corpora import DIGITS, Utterance
from gq_tvm.speech.synthetic import Voice

HELD_OUT_VOICES = ("+f5", "+Annie", "+Denis")  # of espeak-ng: never trained on


def synthetic_words(
    rng: np.random.Generator, count: int, cache: Path, words: Sequence[str] = DIGITS
) -> list[Utterance]:
    """All words from each of ``count`` voices, each said alone."""
    drawn = [draw_voice(rng) for _ in range(count)]
    return synthetic.speak_all([(w, v) for v in drawn for w in words], cache)


def synthetic_phrases(
    rng: np.random.Generator, count: int, cache: Path, words: Sequence[str] = DIGITS
) -> list[Utterance]:
    """Strings of two to five words, spoken without a stop."""
    drawn = []
    for _ in range(count):
        chosen = rng.choice(words, size=rng.integers(2, 6))
        drawn.append((" ".join(chosen), draw_voice(rng)))
    return synthetic.speak_all(drawn, cache)


def synthetic_texts(
    rng: np.random.Generator, count: int, cache: Path, texts: Sequence[str]
) -> list[Utterance]:
    """``count`` texts, each as often as any other, in a voice drawn for each time."""
    order = np.concatenate([rng.permutation(len(texts)) for _ in range(-(-count // len(texts)))])
    return synthetic.speak_all([(texts[n], draw_voice(rng)) for n in order[:count]], cache)


def draw_voice(rng: np.random.Generator) -> Voice:
    """A voice that may be trained on: half of them high, a quarter from flite if it is here."""
    low, high = synthetic.voices()
    pool = high if rng.random() < 0.5 else low
    pool = [voice for voice in pool if not voice.name.endswith(HELD_OUT_VOICES)]
    program = "flite" if rng.random() < 0.25 else "espeak-ng"
    pool = [voice for voice in pool if voice.program == program] or pool
    voice = pool[rng.integers(len(pool))]
    pitch, pace = rng.uniform(0.75, 1.4), rng.uniform(0.8, 1.25)
    return Voice(voice.program, voice.name, round(pitch, 2), round(pace, 2))
