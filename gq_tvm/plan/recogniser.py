"""What a plan says of a speech recogniser: the words that the C++ of `gq_tvm.deploy` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TASKS = ("rnnt", "ctc")  # of the decoders in deploy/native/decoding.cc
FEATURES = ("log-mel", "peak-level")  # kind and normalisation; there are no others in C++


def is_recogniser(metadata: Any) -> bool:
    """Whether what came with a model says that it recognises speech."""
    return isinstance(metadata, Mapping) and metadata.get("task") in TASKS


def kinds(metadata: Any) -> tuple[Any, Any]:
    """The kind of a recogniser's features, and of their normalisation."""
    features = _table(metadata, "features")
    return features.get("kind"), _table(features, "normalisation").get("kind")


def words(metadata: Any) -> dict[str, tuple[str, ...]]:
    """Names and values; what is missing is left out, and all if it is of another kind."""
    if not is_recogniser(metadata) or kinds(metadata) != FEATURES:
        return {}
    features = _table(metadata, "features")
    normalisation = _table(features, "normalisation")
    plain = ("sample_rate", "num_mel_bins", "frame_length_ms", "frame_shift_ms")
    facts = {
        "task": metadata["task"],
        "tokens": metadata.get("tokens"),
        "chunk_frames": metadata.get("chunk_frames", 4),
        "lead_ms": metadata.get("lead_ms", 0),
        "tail_ms": metadata.get("tail_ms", 0),
        **{name: features.get(name) for name in (*plain, "low_hz", "high_hz", "stack")},
        **{name: normalisation.get(name) for name in ("mean", "deviation", "quietest", "release")},
    }
    return {name: _words(value) for name, value in facts.items() if value is not None}


def _words(value: Any) -> tuple[str, ...]:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(map(str, value)) if several else (str(value),)


def _table(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
