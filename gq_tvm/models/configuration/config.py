"""Everything that decides the outcome of a training, from a TOML file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from gq_tvm import cache
from gq_tvm.errors import Error
from gq_tvm.models.configuration import config_file, quantise_config
from gq_tvm.models.configuration.config_table import Limits, Table
from gq_tvm.models.configuration.quantise_config import SCHEDULE_LIMITS, Quantise
from gq_tvm.models.data import corpus
from gq_tvm.models.data.corpus import Corpus
from gq_tvm.models.data.utterance_batches import Limits as UtteranceLimits
from gq_tvm.models.networks.network import NetworkSettings
from gq_tvm.models.training.trainer import Schedule
from gq_tvm.speech.augment import Augmentation
from gq_tvm.speech.features import FeatureSettings

FURTHER: dict[str, Any] = {
    "steps": 600, "learning_rate": 1e-3, "warmup": 20, "curriculum": (0.0, 0.0),
    "auxiliary": (0.2, 0.2),
}  # fmt: skip

_FEATURES: Limits = {
    "sample_rate": (4000, 48000), "num_mel_bins": (8, 256), "frame_length_ms": (5, 100),
    "frame_shift_ms": (2, 50), "low_hz": (0, None), "high_hz": (200, None), "stack": (1, 16),
    "quietest": (-100, 100), "release": (0, 1000),
}  # fmt: skip
_AUGMENTATION: Limits = {
    "speed": (0.25, 4), "tempo": (0.25, 4), "clean": (0, 1), "tilt_db": (0, None),
    "bump_db": (0, None), "reverberation": (0, 1), "peak_db": (None, 0), "padding_s": (None, 5),
}  # fmt: skip
_UTTERANCES: Limits = {"seconds": (1, None), "shortest": (0.3, None), "longest": (1, None)}


@dataclass(frozen=True)
class Strings:
    """Batches of strings of words, held in memory: see ``models.batches``."""

    size: int = 32
    longest: int = 5


@dataclass(frozen=True)
class Evaluation:
    """Joined strings in a set of isolated words; utterances of a set heard while training."""

    joined: int = 100
    while_training: int = 100


_Numbers = TypeVar("_Numbers", Strings, Evaluation)


@dataclass(frozen=True)
class Float:
    """How the float weights come about.

    Without a ``schedule`` they are those of ``start_from``; with one, training begins with those
    of ``initial``, or with fresh ones. Both are checkpoints.
    """

    schedule: Schedule | None
    start_from: Path | None = None
    initial: Path | None = None


@dataclass(frozen=True)
class Config:
    """A checked configuration."""

    seed: int
    output: Path
    features: FeatureSettings
    network: NetworkSettings
    corpora: tuple[Corpus, ...]
    augmentation: Augmentation
    batches: Strings | UtteranceLimits
    fp32: Float
    quantise: Quantise
    evaluation: Evaluation

    @property
    def fp32_checkpoint(self) -> Path:
        """Where float weights are written."""
        return self.output.with_name(f"{self.output.name}-fp32.safetensors")

    @property
    def quantised_checkpoint(self) -> Path:
        """Where the weights under quantisation are written."""
        return self.output.with_name(f"{self.output.name}-quantised.safetensors")

    def decisive(self, phase: str) -> dict[str, Any]:
        """What decides the outcome of a phase, as JSON values; of paths only the name."""
        keys = ["seed", "features", "network", "corpora", "augmentation", "batches", "fp32"]
        if phase != "fp32":
            keys.append("quantise")
        return {key: plain(getattr(self, key)) for key in keys}


def plain(value: Any) -> Any:
    """Dataclasses as JSON values; of paths only the name."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.name if isinstance(value, Path) else value


def read(name: str, changes: Iterable[str] = ()) -> Config:
    """The configuration of a path or a shipped name; see ``config_file.load``.

    Raises:
        Error: something is missing, of another type, out of range or unknown.
    """
    values, base = config_file.load(name, changes)
    table = Table(values, "", base)
    features = _features(table.table("features"))
    config = Config(
        seed=table.whole("seed", 1, high=2**63 - 1),
        output=table.path("output"),
        features=features,
        network=_network(table, features),
        corpora=_corpora(table),
        augmentation=_augmentation(table.table("augmentation")),
        batches=_batches(table.table("batches")),
        fp32=_float(table.table("fp32")),
        quantise=quantise_config.read(table.table("quantise")),
        evaluation=_whole(table.table("evaluation"), Evaluation, low=1),
    )
    table.finish()
    _check(config)
    return config


def _features(table: Table) -> FeatureSettings:
    features = table.settings(FeatureSettings, _FEATURES, skip=("mean", "deviation"))
    table.finish()
    if conflict := features.conflict():
        key, value, wanted = conflict
        table.refuse(key, value, wanted)
    return features


def _network(table: Table, features: FeatureSettings) -> NetworkSettings:
    model = table.table("model")
    parts = {key: model.take(key) for key in ("encoder", "head") if key in model}
    model.take("encoder", None), model.take("head", None)
    model.finish()
    for key, part in parts.items():
        if not isinstance(part, dict):
            raise Error(f"the configuration's model.{key} must be a table, not {part!r}")
    try:
        return NetworkSettings.from_dict({**parts, "features": features.size})
    except Error as error:
        raise Error(f"the configuration's model: {error}") from None


def _corpora(table: Table) -> tuple[Corpus, ...]:
    folders = table.table("folders")
    starts = {kind: folders.path(kind) for kind in ("fsdd", "librispeech") if kind in folders}
    folders.take("fsdd", None), folders.take("librispeech", None)
    folders.finish()
    speech = cache.root() / "speech"
    return tuple(corpus.read(one, starts, speech) for one in table.tables("corpus"))


def _augmentation(table: Table) -> Augmentation:
    found = table.settings(Augmentation, _AUGMENTATION)
    table.finish()
    for one in fields(found):
        value = getattr(found, one.name)
        if isinstance(value, tuple) and value[0] > value[1]:
            table.refuse(one.name, list(value), "a smaller and a larger number")
    return found


def _batches(table: Table) -> Strings | UtteranceLimits:
    kind = table.text("kind", "strings", choices=("strings", "utterances"))
    if kind == "strings":
        return _whole(table, Strings, low=1)
    found = table.settings(UtteranceLimits, _UTTERANCES)
    table.finish()
    return found


def _whole(table: Table, kind: type[_Numbers], low: int) -> _Numbers:
    found: _Numbers = table.settings(kind, dict.fromkeys(kind.__annotations__, (low, None)))
    table.finish()
    return found


def _float(table: Table) -> Float:
    start, initial = table.path("start_from", None), table.path("initial", None)
    if start:
        if odd := [*table.keys, *(["initial"] if initial else [])]:
            raise Error(
                f"the configuration's fp32.start_from leaves nothing to train, so fp32.{odd[0]} "
                "means nothing; leave one of the two out"
            )
        return Float(None, start_from=start)
    defaults = FURTHER if initial else {"steps": 3000}
    schedule = table.settings(Schedule, SCHEDULE_LIMITS, **defaults)
    table.finish()
    return Float(schedule, initial=initial)


def _check(config: Config) -> None:
    roles = {one.role for one in config.corpora}
    if "train" not in roles:
        raise Error('the configuration has no [[corpus]] with role = "train"; add one')
    if roles == {"train"}:
        raise Error('the configuration has no [[corpus]] with role = "test"; add one')
    evaluated = [one.name for one in config.corpora if one.role != "train"]
    if twice := [name for name in evaluated if evaluated.count(name) > 1]:
        raise Error(f"two corpora are named {twice[0]!r}; give each a name of its own")
    if not isinstance(config.batches, UtteranceLimits):
        return
    for one in config.corpora:
        if one.role == "train" and (one.joined or one.share != 1.0):
            key = "joined" if one.joined else "share"
            raise Error(
                f"corpus {one.name} has {key}, which batches of whole utterances do not know; "
                'set batches.kind = "strings", or leave it out'
            )
