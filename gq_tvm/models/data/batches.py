"""Training batches: strings of words put together, distorted and turned into features.

Everything random in step n is drawn from (seed, n): a resumed training sees the batches it
would have seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.speech import augment, tokens
from gq_tvm.speech.augment import Augmentation
from gq_tvm.speech.corpora import Utterance
from gq_tvm.speech.features import FLOOR, FeatureSettings, Level, LogMel, Normaliser

_LEAST_DEVIATION = 0.01  # of a mel bin, in nats; less is that of a band without sound

Clip = tuple[str, np.ndarray]  # text, samples f32 [n]


@dataclass
class Source:
    """Recordings of one kind; ``joined`` ones are isolated words, to be put in a row.

    Those too short for a frame of features are only counted.
    """

    share: float
    joined: bool
    voices: list[list[Clip]] = field(default_factory=list)
    too_short: int = 0

    @classmethod
    def load(
        cls, utterances: Iterable[Utterance], share: float, joined: bool, settings: FeatureSettings
    ) -> Source:
        """Read all recordings into memory, a voice for each speaker."""
        voices: dict[str, list[Clip]] = {}
        rate, too_short = settings.sample_rate, 0
        for utterance in utterances:
            samples = utterance.samples(rate)
            if len(samples) < settings.least_seconds * rate:
                too_short += 1
                continue
            voice = utterance.speaker if joined else ""  # whole utterances need no company
            voices.setdefault(voice, []).append((utterance.text, augment.trim(samples, rate)))
        return cls(share, joined, list(voices.values()), too_short)


@dataclass(frozen=True)
class Batch:
    """Padded features f32 [B, T, F] and tokens i64 [B, U] with their real lengths i64 [B]."""

    features: Tensor
    frames: Tensor
    tokens: Tensor
    lengths: Tensor

    @property
    def count(self) -> Tensor:
        """What a loss a token is divided by, i64 []: the tokens.

        Where there are none, as in noise with an empty text, an utterance counts as one.
        """
        return self.lengths.clamp(min=1).sum()


class Batches:
    """An endless, reproducible supply of training batches."""

    def __init__(
        self,
        sources: Sequence[Source],
        settings: FeatureSettings,
        seed: int,
        size: int,
        longest: int = 5,
        augmentation: Augmentation | None = None,
    ):
        self.settings = settings
        self._too_short = sum(source.too_short for source in sources)
        self._sources = [source for source in sources if source.voices and source.share > 0]
        if not self._sources:
            reason = f" ({self.about()})" if self._too_short else ""
            raise Error(
                f"there is nothing to train on{reason}; give recordings or synthetic speech"
            )
        self._shares = np.array([source.share for source in self._sources])
        self._shares /= self._shares.sum()
        self._seed, self._size, self._longest = seed, size, longest
        self._augmentation = augmentation or Augmentation()

    def about(self) -> str:
        """What is not used, if anything."""
        if not self._too_short:
            return ""
        least = 1000 * self.settings.least_seconds
        return f"recordings left out, as they are shorter than {least:g} ms: {self._too_short}"

    def with_seed(self, seed: int, fresh: bool) -> Batches:
        """The same recordings in other batches, for ``fresh`` weights or others."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def draw(self, step: int, longest: int | None = None, masked: bool = True) -> Batch:
        """The batch of a step, joined strings of at most ``longest`` words.

        ``masked`` features have gaps in time and frequency (SpecAugment).

        Strings in a batch are of like length, so little of it is padding; batches of longer
        strings hold fewer of them, so each costs about the same.
        """
        rng = np.random.default_rng([self._seed, step])
        words = int(rng.integers(1, (longest or self._longest) + 1))
        size = max(1, round(self._size * (self._longest + 1) / (2 * words + 1)))
        pairs = []
        for _ in range(size):
            text, samples = self._utterance(rng, max(1, words - 1), words)
            features = augmented(samples, self.settings, rng, self._augmentation, masked)
            pairs.append((features, tokens.encode(text)))
        return collate(pairs)

    def log_mel_statistics(self, utterances: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each mel bin, relative to the level, in augmented training."""
        rng = np.random.default_rng([self._seed, 1 << 31])
        signals = (self._utterance(rng, 1, self._longest)[1] for _ in range(utterances))
        return log_mel_statistics(signals, self.settings)

    def _utterance(self, rng: np.random.Generator, shortest: int, longest: int) -> Clip:
        source = self._sources[rng.choice(len(self._sources), p=self._shares)]
        voice = source.voices[rng.integers(len(source.voices))]
        if source.joined:
            count = int(rng.integers(shortest, longest + 1))
        else:
            # Noise, whose text is empty, is as short as can be.
            fitting = range(shortest if shortest > 1 else 0, max(2, longest) + 1)
            voice = [clip for clip in voice if len(clip[0].split()) in fitting] or voice
            count = 1
        speed = augment.draw_factor(rng, self._augmentation.speed)
        rate = self.settings.sample_rate
        texts, pieces = [], []
        for index in rng.integers(len(voice), size=count):
            text, samples = voice[index]
            texts.append(text)
            pieces.append(augment.change_speed(samples, speed * rng.uniform(0.96, 1.04)))
            gap = rng.uniform(0.0, 0.05) if rng.random() < 0.3 else rng.uniform(0.0, 0.4)
            pieces.append(np.zeros(round(gap * rate), np.float32))
        samples = augment.distort(np.concatenate(pieces), rate, rng, self._augmentation)
        return " ".join(texts), samples


def augmented(
    samples: np.ndarray,
    settings: FeatureSettings,
    rng: np.random.Generator,
    ranges: Augmentation,
    masked: bool,
) -> np.ndarray:
    """Features f32 [T, F] of distorted samples f32 [n], their tempo changed, perhaps masked.

    There is at least one: silence follows what became too short for a stacked frame.
    """
    frames = LogMel(settings).accept(samples)
    frames = augment.change_tempo(frames, augment.draw_factor(rng, ranges.tempo))
    missing = max(0, settings.stack - len(frames))
    frames = np.pad(frames, ((0, missing), (0, 0)), constant_values=FLOOR)
    features = Normaliser(settings).accept(frames)
    return augment.mask_features(features, settings.num_mel_bins, rng) if masked else features


def log_mel_statistics(
    signals: Iterable[np.ndarray], settings: FeatureSettings
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each mel bin, relative to the level, over some samples f32 [n].

    Raises Error where nothing deviates: all is silent, or too short for a frame.
    """
    collected = [
        Level(settings).relative(LogMel(settings).accept(samples)).astype(np.float64)
        for samples in signals
    ]
    frames = np.concatenate(collected)
    if not len(frames) or (frames.std(0) < _LEAST_DEVIATION).all():
        raise Error("the recordings to train on are silent or too short; give others")
    mean, deviation = frames.mean(0), np.maximum(frames.std(0), _LEAST_DEVIATION)
    return tuple(map(float, mean.round(4))), tuple(map(float, deviation.round(4)))


def of_like_length(frames: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of utterances in batches, the longest first, those of no frames left out.

    Args:
        frames: of each utterance.
        most: frames in a batch, padding included; an utterance at least is in each.
    """
    batches: list[list[int]] = []
    for n in sorted((n for n, length in enumerate(frames) if length), key=lambda n: -frames[n]):
        if not batches or (len(batches[-1]) + 1) * frames[batches[-1][0]] > most:
            batches.append([])
        batches[-1].append(n)
    return batches


def collate(pairs: Sequence[tuple[np.ndarray, list[int]]]) -> Batch:
    """Pad features with zeros and tokens with blanks to the longest of a batch."""
    frames = [len(features) for features, _ in pairs]
    lengths = [len(numbers) for _, numbers in pairs]
    features = np.zeros((len(pairs), max(frames), pairs[0][0].shape[1]), np.float32)
    numbers = np.full((len(pairs), max(lengths)), tokens.BLANK, np.int64)
    for row, (values, target) in enumerate(pairs):
        features[row, : len(values)] = values
        numbers[row, : len(target)] = target
    return Batch(
        torch.from_numpy(features),
        torch.tensor(frames),
        torch.from_numpy(numbers),
        torch.tensor(lengths),
    )
