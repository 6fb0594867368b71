"""The spoken-digit recipe: which recordings and voices train, choose and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gq_tvm.models.batches import Source
from gq_tvm.models.evaluation import Spoken
from gq_tvm.speech import corpora, synthetic
from gq_tvm.speech.corpora import DIGITS, Utterance
from gq_tvm.speech.synthetic import Voice

HELD_OUT_VOICES = ("+f5", "+Annie", "+Denis")  # of espeak-ng: never trained on


@dataclass(frozen=True)
class DigitRecipe:
    """Speakers by role, and how much synthetic speech joins them."""

    train: tuple[str, ...] = ("jackson", "nicolas", "lucas")
    development: tuple[str, ...] = ("yweweler",)
    test: tuple[str, ...] = ("george",)
    voices: int = 400  # synthetic voices that say all ten digits
    phrases: int = 2000  # synthetic strings spoken in one go
    shares: tuple[float, float, float] = (0.5, 0.35, 0.15)  # recorded, synthetic words, phrases
    joined: int = 100  # joined strings in each evaluation set


def training_sources(
    folder: Path, cache: Path, recipe: DigitRecipe, sample_rate: int, seed: int
) -> list[Source]:
    """Recorded words, synthetic words and synthetic phrases, read into memory.

    ``recipe.voices`` = 0 leaves synthetic speech out (and needs no synthesiser).
    """
    recorded = corpora.by_speaker(corpora.spoken_digits(folder), recipe.train)
    sources = [Source.load(recorded, recipe.shares[0], True, sample_rate)]
    if recipe.voices:
        rng = np.random.default_rng([seed, 0])
        words = synthetic_words(rng, recipe.voices, cache)
        phrases = synthetic_phrases(rng, recipe.phrases, cache)
        sources.append(Source.load(words, recipe.shares[1], True, sample_rate))
        sources.append(Source.load(phrases, recipe.shares[2], False, sample_rate))
    return sources


def synthetic_words(rng: np.random.Generator, count: int, cache: Path) -> list[Utterance]:
    """All ten digits from each of ``count`` voices, each said alone."""
    drawn = [draw_voice(rng) for _ in range(count)]
    return synthetic.speak_all([(w, v) for v in drawn for w in DIGITS], cache)


def synthetic_phrases(rng: np.random.Generator, count: int, cache: Path) -> list[Utterance]:
    """Strings of two to five digits, spoken without a stop."""
    drawn = []
    for _ in range(count):
        words = rng.choice(DIGITS, size=rng.integers(2, 6))
        drawn.append((" ".join(words), draw_voice(rng)))
    return synthetic.speak_all(drawn, cache)


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


def evaluation_sets(
    folder: Path, speakers: Sequence[str], recipe: DigitRecipe, thin: int = 1
) -> dict[str, Sequence[Spoken]]:
    """Isolated words (every ``thin``-th) and joined strings of some speakers, fixed."""
    words = corpora.by_speaker(corpora.spoken_digits(folder), speakers)
    strings = corpora.joined_strings(words, recipe.joined // thin, seed=20221018)
    return {"isolated": words[::thin], "joined": strings}
