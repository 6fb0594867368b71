"""Word error rates of a recogniser on named sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from gq_tvm.speech import Recogniser, word_error_rate


class Spoken(Protocol):
    """Something said: an utterance or a joined string."""

    @property
    def text(self) -> str:
        """What is said."""

    def samples(self, sample_rate: int) -> np.ndarray:
        """Samples f32 [n]."""


def evaluate(recogniser: Recogniser, sets: Mapping[str, Sequence[Spoken]]) -> dict[str, float]:
    """Word error rate in percent of each set, two decimals."""
    rates = {}
    for name, spoken in sets.items():
        heard = [recogniser.transcribe(item.samples(recogniser.sample_rate)) for item in spoken]
        rates[name] = round(word_error_rate([item.text for item in spoken], heard), 2)
    return rates
