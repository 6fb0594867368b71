"""What a plan says of a speech recogniser: the words that the C++ of `gq_tvm.deploy` reads.

They are the values of `gq_tvm.speech.description.RecogniserDescription`, under its names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TASKS = ("rnnt", "ctc")  # of the decoders in core/cpp/speech/decoding.cc
FEATURES = ("log-mel", "peak-level")  # kind and normalisation; there are no others in C++
_USUAL = {"chunk_frames": 4, "lead_ms": 0, "tail_ms": 0}  # where a description leaves them out


def is_recogniser(metadata: Any) -> bool:
    """Whether what came with a model says that it recognises speech."""
    return isinstance(metadata, Mapping) and metadata.get("task") in TASKS


def kinds(metadata: Any) -> tuple[Any, Any]:
    """The kind of a recogniser's features, and of their normalisation."""
    features = _table(metadata, "features")
    return features.get("kind"), _table(features, "normalisation").get("kind")


def words(metadata: Any) -> dict[str, tuple[str, ...]]:
    """The values of a description by name, those of its tables too; none if it is of another kind.

    What only Python asks for, states and training, is left out.
    """
    if not is_recogniser(metadata) or kinds(metadata) != FEATURES:
        return {}
    features = _table(metadata, "features")
    values = {**_USUAL, **metadata, **features, **_table(features, "normalisation")}
    return {
        name: _words(value)
        for name, value in values.items()
        if name != "kind" and value is not None and not isinstance(value, Mapping)
    }


def _words(value: Any) -> tuple[str, ...]:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(map(str, value)) if several else (str(value),)


def _table(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
