"""Synthetic speakers: which voices are drawn for training and for evaluation, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.speech import synthetic
from gq_tvm.speech.corpora import DIGITS, Utterance
from gq_tvm.speech.synthetic import Voice

HELD_OUT_VOICES = ("+f5", "+Annie", "+Denis")  # of espeak-ng: for evaluation only


def synthetic_words(
    rng: np.random.Generator,
    count: int,
    cache: Path,
    words: Sequence[str] = DIGITS,
    held_out: bool = False,
) -> list[Utterance]:
    """All words from each of ``count`` voices, each said alone."""
    drawn = [draw_voice(rng, held_out) for _ in range(count)]
    return synthetic.speak_all([(w, v) for v in drawn for w in words], cache)


def synthetic_phrases(
    rng: np.random.Generator,
    count: int,
    cache: Path,
    words: Sequence[str] = DIGITS,
    held_out: bool = False,
) -> list[Utterance]:
    """Strings of two to five words, spoken without a stop."""
    drawn = []
    for _ in range(count):
        chosen = rng.choice(words, size=rng.integers(2, 6))
        drawn.append((" ".join(chosen), draw_voice(rng, held_out)))
    return synthetic.speak_all(drawn, cache)


def synthetic_texts(
    rng: np.random.Generator,
    count: int,
    cache: Path,
    texts: Sequence[str],
    held_out: bool = False,
) -> list[Utterance]:
    """``count`` texts, each as often as any other, in a voice drawn for each time."""
    order = np.concatenate([rng.permutation(len(texts)) for _ in range(-(-count // len(texts)))])
    drawn = [(texts[n], draw_voice(rng, held_out)) for n in order[:count]]
    return synthetic.speak_all(drawn, cache)


def draw_voice(rng: np.random.Generator, held_out: bool = False) -> Voice:
    """A voice that may be trained on, or one that may not: half of them high.

    Of those that may, a quarter are from flite if it is here. Raises Error when a voice is to be
    held out of training and espeak-ng, which has those, is not installed.
    """
    low, high = synthetic.voices()
    half = high if rng.random() < 0.5 else low
    fitting = [v for v in low + high if v.name.endswith(HELD_OUT_VOICES) is held_out]
    pool = [voice for voice in half if voice in fitting] or fitting
    if not pool:
        which = "that training leaves to evaluation" if held_out else "to train on"
        raise Error(f"no synthetic voice {which} is installed; install espeak-ng")
    program = "flite" if rng.random() < 0.25 else "espeak-ng"
    pool = [voice for voice in pool if voice.program == program] or pool
    voice = pool[rng.integers(len(pool))]
    pitch, pace = rng.uniform(0.75, 1.4), rng.uniform(0.8, 1.25)
    return Voice(voice.program, voice.name, round(pitch, 2), round(pace, 2))
