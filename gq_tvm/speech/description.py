"""What a recogniser is beside its networks, and how that travels with a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.speech import checks
from gq_tvm.speech.decoding import DECODERS, MAX_ENCODER_FRAMES, States
from gq_tvm.speech.features import FeatureSettings
from gq_tvm.speech.tokens import BLANK

_LONGEST_SILENCE = 60_000  # ms
_LARGEST_STATE = 1 << 26  # values


@dataclass(frozen=True)
class RecogniserDescription:
    """A recogniser without its networks; as it was read, every value is within bounds.

    Exporting writes it as the metadata of a model (:meth:`to_dict`). A plan has the same keys, and
    ``core/cpp/speech/metadata.cc`` the same bounds.

    Attributes:
        task: a key of ``decoding.DECODERS``.
        tokens: the text of each.
        features: how samples become features.
        states: shapes of the networks' states, by network and name, in the order they are taken.
        chunk_frames: stacked frames that a streaming session hands to the encoder.
        lead_ms: silence before the first sample of a recording, in milliseconds.
        tail_ms: silence behind the last.
        training: what else there is to know of the model, as JSON values.
    """

    task: str
    tokens: tuple[str, ...]
    features: FeatureSettings
    states: States
    chunk_frames: int = 4
    lead_ms: float = 0.0
    tail_ms: float = 0.0
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lead(self) -> int:
        """Samples of silence before a recording."""
        return round(self.features.sample_rate * self.lead_ms / 1000)

    @property
    def tail(self) -> int:
        """Samples of silence behind it."""
        return round(self.features.sample_rate * self.tail_ms / 1000)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, all that :meth:`read` needs: the contents of ``gq_metadata.json``."""
        return {
            "task": self.task,
            "tokens": list(self.tokens),
            "blank": BLANK,
            "features": self.features.to_dict(),
            "chunk_frames": self.chunk_frames,
            "lead_ms": self.lead_ms,
            "tail_ms": self.tail_ms,
            "states": self.states,
            "training": self.training,
        }

    @classmethod
    def read(cls, metadata: Any) -> RecogniserDescription:
        """Read what :meth:`to_dict` wrote; what is left out has its default.

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
        chunk = values.get("chunk_frames", cls.chunk_frames)
        return cls(
            task=task,
            features=FeatureSettings.from_dict(values["features"]),
            tokens=checks.texts("tokens", values["tokens"]),
            chunk_frames=checks.whole("chunk_frames", chunk, 1, MAX_ENCODER_FRAMES),
            lead_ms=_silence("lead_ms", values, cls.lead_ms),
            tail_ms=_silence("tail_ms", values, cls.tail_ms),
            states={name: _shapes(values["states"], name) for name in DECODERS[task].STATES},
            training=values.get("training", {}),
        )


def _silence(name: str, values: Mapping[str, Any], usual: float) -> float:
    return checks.number(name, values.get(name, usual), 0, _LONGEST_SILENCE)


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
