"""What a configuration's corpora become: training batches and evaluation sets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.models.configuration.config import Config, Strings
from gq_tvm.models.data.batches import Batches, Source
from gq_tvm.models.data.corpus import ROLES, Corpus
from gq_tvm.models.data.utterance_batches import UtteranceBatches
from gq_tvm.models.training.evaluation import Spoken
from gq_tvm.speech import audio, corpora
from gq_tvm.speech.corpora import Utterance
from gq_tvm.speech.features import FeatureSettings

IN_MEMORY = 4 << 30  # bytes of samples that batches of strings may hold
STATISTICS = 300  # utterances that the features' means are taken from
_JOINED_SEED = 20221018

Supply = Batches | UtteranceBatches


@dataclass(frozen=True)
class Recordings:
    """The utterances of a corpus and how long each is, in seconds."""

    corpus: Corpus
    utterances: Sequence[Utterance]
    seconds: Sequence[float]

    def summary(self) -> dict[str, Any]:
        """For the report of a training."""
        return {
            "name": self.corpus.name,
            "kind": self.corpus.kind,
            "role": self.corpus.role,
            "utterances": len(self.utterances),
            "hours": round(sum(self.seconds) / 3600, 3),
        }


def recordings(
    config: Config, roles: Collection[str] = ROLES, speak: bool = True
) -> list[Recordings]:
    """The corpora of some roles, only their headers read.

    Synthetic ones are spoken first, or left out with ``speak=False``.
    """
    found = []
    for number, corpus in enumerate(config.corpora):
        if corpus.role in roles and (corpus.kind != "synthetic" or speak):
            utterances = corpus.utterances(config.seed, number)
            seconds = [audio.duration(one.path) for one in utterances]
            found.append(Recordings(corpus, utterances, seconds))
    return found


def supply(
    config: Config, found: Sequence[Recordings], seed: int, features: FeatureSettings | None = None
) -> Supply:
    """Training batches; features have the means of the training corpora unless they are given."""
    training = [one for one in found if one.corpus.role == "train"]
    batches = _batches(config, training, seed, features or config.features)
    if features is None:
        mean, deviation = batches.log_mel_statistics(STATISTICS)
        batches.settings = replace(config.features, mean=mean, deviation=deviation)
    return batches


def evaluation_sets(
    config: Config, found: Sequence[Recordings], role: str
) -> dict[str, Sequence[Spoken]]:
    """What is said in the corpora of a role; isolated words are joined to strings too."""
    sets: dict[str, Sequence[Spoken]] = {}
    for one in found:
        corpus = one.corpus
        if corpus.role == role and corpus.joined:
            count = config.evaluation.joined
            strings = corpora.joined_strings(one.utterances, count, seed=_JOINED_SEED)
            sets |= {f"{corpus.name} isolated": one.utterances, f"{corpus.name} joined": strings}
        elif corpus.role == role:
            sets[corpus.name] = one.utterances
    return sets


def _batches(
    config: Config, training: Sequence[Recordings], seed: int, features: FeatureSettings
) -> Supply:
    if isinstance(config.batches, Strings):
        _check_memory(training, features.sample_rate)
        sources = [
            Source.load(one.utterances, one.corpus.share, one.corpus.joined, features)
            for one in training
        ]
        size, longest = config.batches.size, config.batches.longest
        return Batches(sources, features, seed, size, longest, config.augmentation)
    utterances = [utterance for one in training for utterance in one.utterances]
    seconds = [length for one in training for length in one.seconds]
    return UtteranceBatches(
        utterances, seconds, features, seed, config.batches, config.augmentation
    )


def _check_memory(training: Sequence[Recordings], sample_rate: int) -> None:
    hours = sum(sum(one.seconds) for one in training) / 3600
    if hours * 3600 * sample_rate * 4 > IN_MEMORY:
        raise Error(
            f"{hours:.0f} hours of recordings are too many for batches of strings, which are held "
            'in memory; set batches.kind = "utterances" to read them from disk'
        )
