"""The data of all cells: the same batches and the same recordings for each."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.accuracy import recipe
from benchmarks.accuracy.recipe import DigitRecipe
from gq_tvm import cache as cache_folder
from gq_tvm import files
from gq_tvm.models.data.batches import Batch, Batches, Source
from gq_tvm.models.torch_recogniser import deployed_features
from gq_tvm.models.training.evaluation import Spoken
from gq_tvm.speech.features import FeatureSettings

BATCH = 20
_SEED = 1  # of synthetic voices and of the features' means
_NAMES = ("features", "frames", "tokens", "lengths")


@dataclass(frozen=True)
class EvaluationSet:
    """What was said, and the features f32 [T, F] a recogniser makes of each recording."""

    texts: list[str]
    features: list[np.ndarray]


@dataclass(frozen=True)
class Data:
    """Recordings by role, and a folder for what is made of them once."""

    recordings: Path
    folder: Path

    @cached_property
    def recipe(self) -> DigitRecipe:
        """Speakers by role."""
        return DigitRecipe()

    @cached_property
    def features(self) -> FeatureSettings:
        """How samples become features: as everywhere, with the training set's means."""
        path = self.folder / "features.json"
        if not path.exists():
            drawn = Batches(self._sources, FeatureSettings(), _SEED, BATCH)
            mean, deviation = drawn.log_mel_statistics(300)
            found = replace(FeatureSettings(), mean=mean, deviation=deviation)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(path, json.dumps(found.to_dict()))
        return FeatureSettings.from_dict(json.loads(path.read_text()))

    @cached_property
    def _sources(self) -> list[Source]:
        speech = cache_folder.root() / "speech"
        settings = FeatureSettings()
        return recipe.training_sources(self.recordings, speech, self.recipe, settings, _SEED)

    def batches(self, seed: int) -> Batches:
        """Fresh batches, each drawn when it is asked for."""
        return Batches(self._sources, self.features, seed, BATCH)

    def stored(self, seed: int, count: int) -> StoredBatches:
        """The first batches of a seed, drawn once for all cells."""
        path = self.folder / f"batches-{seed}-{count}.safetensors"
        if not path.exists():
            drawn = self.batches(seed)
            tensors: dict[str, torch.Tensor] = {}
            for step in range(count):
                batch = drawn.draw(step)
                tensors |= {f"{step}.{name}": getattr(batch, name) for name in _NAMES}
            with files.whole(path) as temporary:
                save_file(tensors, temporary)
        return StoredBatches(path)

    def spoken(self, role: str) -> list[Spoken]:
        """All isolated words and joined strings of the speakers of a role."""
        speakers = getattr(self.recipe, role)
        return recipe.evaluation_set(self.recordings, speakers, self.recipe)

    @cache  # noqa: B019  (one worker, two roles)
    def evaluation_set(self, role: str) -> EvaluationSet:
        """What is said in ``spoken``, as text and as features."""
        spoken, rate = self.spoken(role), self.features.sample_rate
        features = [deployed_features(one.samples(rate), self.features) for one in spoken]
        return EvaluationSet([one.text for one in spoken], features)


class StoredBatches:
    """Batches out of a file."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")

    def draw(self, step: int, longest: int | None = None, masked: bool = True) -> Batch:
        """The batch of a step; what it may hold was decided when it was stored."""
        return Batch(*(self._file.get_tensor(f"{step}.{name}") for name in _NAMES))
