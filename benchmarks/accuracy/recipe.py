"""The spoken digits of the table: what trains, chooses and tests, all in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gq_tvm.models.data.batches import Source
from gq_tvm.models.data.voices import synthetic_phrases, synthetic_words
from gq_tvm.models.training.evaluation import Spoken
from gq_tvm.speech import FeatureSettings, corpora


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
    folder: Path, cache: Path, recipe: DigitRecipe, settings: FeatureSettings, seed: int
) -> list[Source]:
    """Recorded words, synthetic words and synthetic phrases, read into memory.

    ``recipe.voices`` = 0 leaves synthetic speech out (and needs no synthesiser).
    """
    recorded = corpora.by_speaker(corpora.spoken_digits(folder), recipe.train)
    sources = [Source.load(recorded, recipe.shares[0], True, settings)]
    if recipe.voices:
        rng = np.random.default_rng([seed, 0])
        words = synthetic_words(rng, recipe.voices, cache)
        phrases = synthetic_phrases(rng, recipe.phrases, cache)
        sources.append(Source.load(words, recipe.shares[1], True, settings))
        sources.append(Source.load(phrases, recipe.shares[2], False, settings))
    return sources


def evaluation_set(folder: Path, speakers: Sequence[str], recipe: DigitRecipe) -> list[Spoken]:
    """All isolated words of some speakers, and joined strings, fixed."""
    words = corpora.by_speaker(corpora.spoken_digits(folder), speakers)
    return [*words, *corpora.joined_strings(words, recipe.joined, seed=20221018)]
