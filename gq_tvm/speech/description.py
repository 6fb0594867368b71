"""What a model's metadata says of a recogniser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.speech import checks
from gq_tvm.speech.decoding import DECODERS, MAX_ENCODER_FRAMES, States
from gq_tvm.speech.features import FeatureSettings
from gq_tvm.speech.tokens import BLANK

_LONGEST_SILENCE = 60_000  # ms
_LARGEST_STATE = 1 << 26  # values


@dataclass(frozen=True)
class Description:
    """A recogniser without its networks; every value is within bounds.

    Attributes:
        task: a key of ``decoding.DECODERS``.
        tokens: the text of each.
        features: how samples become features.
        chunk_frames: stacked frames that a streaming session hands to the encoder.
        lead: samples of silence before the first sample of a recording.
        tail: samples of silence behind the last.
        states: shapes of the networks' states, by network and name, in the order they are taken.
    """

    task: str
    tokens: tuple[str, ...]
    features: FeatureSettings
    chunk_frames: int
    lead: int
    tail: int
    states: States

    @classmethod
    def read(cls, metadata: Any) -> Description:
        """A description from the contents of ``gq_metadata.json``.

        Raises Error naming what is missing or cannot be.
        """
        values = metadata if isinstance(metadata, Mapping) else {}
        task = values.get("task")
        if not isinstance(task, str) or task not in DECODERS:
            raise Error(
                f"the model's task is {checks.shown(repr(task))}; only RNN transducers "
                "('rnnt') and CTC ('ctc') can transcribe"
            )
        missing = [key for key in ("tokens", "features", "states") if key not in values]
        if missing:
            raise Error(f"the model's metadata lacks {', '.join(missing)}; export it again")
        if values.get("blank", BLANK) != BLANK:
            raise checks.refused("blank", values["blank"], str(BLANK))
        features = FeatureSettings.from_dict(values["features"])
        return cls(
            task,
            checks.texts("tokens", values["tokens"]),
            features,
            checks.whole("chunk_frames", values.get("chunk_frames", 4), 1, MAX_ENCODER_FRAMES),
            _silence("lead_ms", values, features.sample_rate),
            _silence("tail_ms", values, features.sample_rate),
            {name: _shapes(values["states"], name) for name in DECODERS[task].STATES},
        )


def _silence(name: str, values: Mapping[str, Any], rate: int) -> int:
    ms = checks.number(name, values.get(name, 0), 0, _LONGEST_SILENCE)
    return round(rate * ms / 1000)


def _shapes(states: Any, network: str) -> dict[str, Sequence[int]]:
    shapes = states.get(network) if isinstance(states, Mapping) else None
    if not isinstance(shapes, Mapping):
        raise Error(
            f"the model's metadata lacks the state shapes of its {network}; export it again"
        )
    found: dict[str, Sequence[int]] = {}
    for key, shape in shapes.items():
        name = f"states.{network}.{key}"
        if not isinstance(shape, list | tuple):
            raise checks.refused(name, shape, "a list of sizes")
        found[key] = [checks.whole(name, size, 1, _LARGEST_STATE) for size in shape]
        if math.prod(found[key]) > _LARGEST_STATE:
            raise checks.refused(name, shape, f"at most {_LARGEST_STATE} values")
    return found
