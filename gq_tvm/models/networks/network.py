"""A recogniser's network by its settings: an encoder and a head, each chosen by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from torch import nn

from gq_tvm.errors import Error
from gq_tvm.models.networks.conformer import ConformerEncoder, ConformerSettings
from gq_tvm.models.networks.ctc import CTC, CTCSettings
from gq_tvm.models.networks.encoder import Encoder
from gq_tvm.models.networks.lstm_encoder import LSTMEncoder, LSTMEncoderSettings
from gq_tvm.models.networks.rnnt import RNNT, RNNTSettings
from gq_tvm.speech import tokens

Network = RNNT | CTC

MOST = 65536  # of any size

ENCODERS: dict[str, tuple[type, type[nn.Module]]] = {
    "lstm": (LSTMEncoderSettings, LSTMEncoder),
    "conformer": (ConformerSettings, ConformerEncoder),
}
HEADS: dict[str, type] = {"rnnt": RNNTSettings, "ctc": CTCSettings}
_TASKS: dict[type[nn.Module], str] = {RNNT: "rnnt", CTC: "ctc"}


@dataclass(frozen=True)
class NetworkSettings:
    """All sizes of a network.

    ``features`` is the number of values in a frame, ``tokens`` that of the tokens, blank included.
    """

    encoder: LSTMEncoderSettings | ConformerSettings = field(default_factory=LSTMEncoderSettings)
    head: RNNTSettings | CTCSettings = field(default_factory=RNNTSettings)
    features: int = 160
    tokens: int = len(tokens.CHARACTERS)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``encoder`` and ``head`` with their ``kind``, and the sizes."""
        kinds = {settings: kind for kind, (settings, _) in ENCODERS.items()}
        heads = {settings: kind for kind, settings in HEADS.items()}
        return {
            "encoder": {"kind": kinds[type(self.encoder)], **asdict(self.encoder)},
            "head": {"kind": heads[type(self.head)], **asdict(self.head)},
            "features": self.features,
            "tokens": self.tokens,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkSettings:
        """Read what :meth:`to_dict` wrote; what is left out has its default.

        Raises Error naming a kind or a size that does not exist.
        """
        known = {one.name for one in fields(cls)}
        if odd := sorted(set(values) - known):
            raise Error(f"a model has no {odd[0]!r}; it has {', '.join(sorted(known))}")
        encoders = {kind: settings for kind, (settings, _) in ENCODERS.items()}
        rest = {key: values[key] for key in ("features", "tokens") if key in values}
        for key, value in rest.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
                raise Error(f"the model's {key} must be a whole number to {MOST}, not {value!r}")
        return cls(
            encoder=_part("encoder", values.get("encoder", {}), encoders, "lstm"),
            head=_part("head", values.get("head", {}), HEADS, "rnnt"),
            **rest,
        )


def build(settings: NetworkSettings) -> Network:
    """A network with fresh weights from PyTorch's random numbers."""
    head = settings.head
    outputs = head.joint_size if isinstance(head, RNNTSettings) else settings.tokens
    kind = next(kind for kind, (own, _) in ENCODERS.items() if own is type(settings.encoder))
    encoder = cast(Encoder, ENCODERS[kind][1](settings.encoder, settings.features, outputs))
    if isinstance(head, RNNTSettings):
        return RNNT(encoder, head, settings.features, settings.tokens)
    return CTC(encoder, settings.features)


def task(network: Network) -> str:
    """The kind of decoding a network is made for: ``"rnnt"`` or ``"ctc"``."""
    return _TASKS[type(network)]


def _part(name: str, values: Mapping[str, Any], kinds: Mapping[str, type], usual: str) -> Any:
    if not isinstance(values, Mapping):
        raise Error(f"the {name} must be a table, not {values!r}")
    values = dict(values)
    kind = values.pop("kind", usual)
    if not isinstance(kind, str) or kind not in kinds:
        raise Error(f"there is no {name} {kind!r}; choose from {', '.join(kinds)}")
    sizes = {one.name: one for one in fields(kinds[kind])}
    for key, value in values.items():
        if key not in sizes:
            offered = ", ".join(sizes) or "nothing"
            raise Error(f"the {name} {kind!r} has no {key!r}; it has {offered}")
        whole = sizes[key].type == "int"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise Error(f"the {name}'s {key} must be a {'whole ' * whole}number, not {value!r}")
        if not (1 <= value <= MOST if whole else 0 <= value < 1):
            allowed = f"from 1 to {MOST}" if whole else "at least 0 and below 1"
            raise Error(f"the {name}'s {key} must be {allowed}, not {value!r}")
    return kinds[kind](**values)
