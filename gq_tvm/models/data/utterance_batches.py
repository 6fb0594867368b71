"""Training batches of whole utterances, read from disk when they are needed.

For corpora too large for memory: only paths, texts and lengths are kept. Everything random in step
n is drawn from (seed, n) and (seed, epoch), so that a resumed training sees the batches it would
have seen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.models.data.batches import Batch, augmented, collate, log_mel_statistics
from gq_tvm.speech import augment, tokens
from gq_tvm.speech.augment import Augmentation
from gq_tvm.speech.corpora import Utterance
from gq_tvm.speech.features import FeatureSettings

_JITTER = 0.05  # lengths are blurred by so much, so that batches differ from epoch to epoch


@dataclass(frozen=True)
class Limits:
    """Seconds of audio in a batch, padding included, and of an utterance that is used.

    With ``shortest_first`` the first epoch of fresh weights goes from short to long (Amodei et al.
    2016, arXiv 1512.02595, section 3.2), as no other does.
    """

    seconds: float = 120.0
    shortest: float = 0.5
    longest: float = 17.0
    shortest_first: bool = True


class UtteranceBatches:
    """An endless, reproducible supply of batches; an epoch has every utterance once.

    Utterances of like length go together, so little of a batch is padding.

    Args:
        utterances: recordings.
        seconds: how long each is.
        settings: how samples become features.
        seed: of order and augmentation.
        limits: sizes.
        augmentation: ranges of the random changes.

    Raises:
        Error: no utterance is within the limits.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        seconds: Sequence[float],
        settings: FeatureSettings,
        seed: int,
        limits: Limits,
        augmentation: Augmentation | None = None,
    ) -> None:
        lengths = np.array(seconds, np.float64)
        fitting = np.flatnonzero((lengths >= limits.shortest) & (lengths <= limits.longest))
        if not len(fitting):
            raise Error(
                f"no utterance has {limits.shortest:g} to {limits.longest:g} seconds; "
                "change shortest and longest, or give other recordings"
            )
        self.settings = settings
        self.used = [utterances[n] for n in fitting.tolist()]
        self._lengths = lengths[fitting]
        self._left_out = len(lengths) - len(fitting)
        self._seed, self._limits = seed, limits
        self._shortest_first = limits.shortest_first
        self._augmentation = augmentation or Augmentation()
        self._ends = _cut(np.sort(self._lengths), limits.seconds)
        self._epoch = -1
        self._batches: list[np.ndarray] = []

    @property
    def steps_an_epoch(self) -> int:
        """Batches until every utterance was seen."""
        return len(self._ends)

    def about(self) -> str:
        """How many utterances are used, and how many steps they are."""
        limits, used = self._limits, len(self.used)
        return (
            f"{used} of {used + self._left_out} utterances are {limits.shortest:g} to "
            f"{limits.longest:g} seconds long and used; an epoch is {self.steps_an_epoch} steps"
        )

    def with_seed(self, seed: int, fresh: bool) -> UtteranceBatches:
        """The same recordings in other batches.

        Only a network of fresh weights has use for the short utterances first; others learn from
        all lengths at once.
        """
        other = copy.copy(self)
        other._seed, other._epoch = seed, -1
        other._shortest_first = fresh and self._limits.shortest_first
        return other

    def draw(self, step: int, longest: int | None = None, masked: bool = True) -> Batch:
        """The batch of a step; whole utterances know no limit on words (``longest``)."""
        rng = np.random.default_rng([self._seed, step])
        pairs = []
        for number in self._numbers(step):
            utterance = self.used[number]
            samples = self._distorted(utterance, rng)
            features = augmented(samples, self.settings, rng, self._augmentation, masked)
            pairs.append((features, tokens.encode(utterance.text)))
        return collate(pairs)

    def log_mel_statistics(self, utterances: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each mel bin, relative to the level, in augmented training."""
        rng = np.random.default_rng([self._seed, 1 << 31])
        drawn = rng.integers(len(self.used), size=utterances)
        signals = (self._distorted(self.used[n], rng) for n in drawn.tolist())
        return log_mel_statistics(signals, self.settings)

    def _distorted(self, utterance: Utterance, rng: np.random.Generator) -> np.ndarray:
        rate = self.settings.sample_rate
        speed = augment.draw_factor(rng, self._augmentation.speed)
        samples = augment.change_speed(utterance.samples(rate), speed)
        return augment.distort(samples, rate, rng, self._augmentation)

    def _numbers(self, step: int) -> np.ndarray:
        """The utterances of a step."""
        epoch, index = divmod(step, len(self._ends))
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch, 1])
            blurred = self._lengths * rng.uniform(1 - _JITTER, 1 + _JITTER, len(self._lengths))
            batches = np.split(np.argsort(blurred, kind="stable"), self._ends[:-1])
            if epoch or not self._shortest_first:
                batches = [batches[n] for n in rng.permutation(len(batches))]
            self._epoch, self._batches = epoch, batches
        return self._batches[index]


def _cut(ascending: np.ndarray, seconds: float) -> np.ndarray:
    """Ends of batches of at most ``seconds``, padding included; an utterance at least in each."""
    ends, begun = [], 0
    for number, length in enumerate(ascending):
        if number > begun and (number + 1 - begun) * length > seconds:
            ends.append(number)
            begun = number
    return np.array([*ends, len(ascending)])
