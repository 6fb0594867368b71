"""Word error rates on named sets: exact ones at the end, quick ones while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gq_tvm.models.networks.network import Network
from gq_tvm.models.torch_recogniser import deployed_features
from gq_tvm.models.training.batched_decoding import transcribe_batched
from gq_tvm.speech import (
    FeatureSettings,
    Recogniser,
    bootstrap_interval,
    word_error_rate,
)


class Spoken(Protocol):
    """Something said: an utterance or a joined string."""

    @property
    def text(self) -> str:
        """What is said."""

    def samples(self, sample_rate: int) -> np.ndarray:
        """Samples f32 [n]."""


Sets = Mapping[str, Sequence[Spoken]]


@dataclass(frozen=True)
class Rate:
    """A word error rate and its 95% interval, in percent, two decimals."""

    percent: float
    interval: tuple[float, float]


def evaluate(recogniser: Recogniser, sets: Sets) -> dict[str, Rate]:
    """Word error rate of each set, as a deployed recogniser hears it."""
    rates = {}
    for name, spoken in sets.items():
        texts = [item.text for item in spoken]
        heard = [recogniser.transcribe(item.samples(recogniser.sample_rate)) for item in spoken]
        low, high = bootstrap_interval(texts, heard)
        percent = round(word_error_rate(texts, heard), 2)
        rates[name] = Rate(percent, (round(low, 2), round(high, 2)))
    return rates


class QuickEvaluation:
    """Word error rates of a part of each set, many utterances at once.

    Args:
        sets: what is said.
        settings: how samples become features.
        most: utterances kept of a set, evenly spaced; their features stay in memory.
    """

    def __init__(self, sets: Sets, settings: FeatureSettings, most: int) -> None:
        rate = settings.sample_rate
        self._sets = {}
        for name, spoken in sets.items():
            kept = spoken[:: -(-len(spoken) // most)]
            features = [deployed_features(one.samples(rate), settings) for one in kept]
            self._sets[name] = [one.text for one in kept], features

    def __call__(self, model: Network) -> dict[str, float]:
        """Word error rate in percent of each set; puts the model into evaluation mode."""
        return {
            name: word_error_rate(texts, transcribe_batched(model, features))
            for name, (texts, features) in self._sets.items()
        }
