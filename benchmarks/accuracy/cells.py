"""What is trained and compared: networks, rows (how many bits where) and methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gq_tvm.models.networks.conformer import ConformerSettings
from gq_tvm.models.networks.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.networks.network import NetworkSettings
from gq_tvm.models.networks.rnnt import RNNTSettings

_HEAD = RNNTSettings(predictor_size=64, embedding_size=32, joint_size=96)
NETWORKS = {
    "rnnt": NetworkSettings(LSTMEncoderSettings(size=160, layers=2), _HEAD),
    "conformer": NetworkSettings(ConformerSettings(size=64, layers=4, inner=192), _HEAD),
}
TITLES = {"rnnt": "RNN-T", "conformer": "Conformer"}

METHODS = {
    "rounding": "rounding after training",
    "lloyd-max": "Lloyd-Max after training",
    "lsq": "LSQ training",
    "gq": "GQ training",
}
#: What is done to the float weights without training them further: columns of a table of their own.
AFTER_TRAINING = {
    "rounding": "rounding",
    "lloyd-max": "Lloyd-Max",
    "compress-row": "compress, a scale a row",
    "compress": "compress",
}
#: In every row: a few hundred weights a layer, and those that end in a score or an embedding.
EIGHT = {"predictor.embedding": 8, "joint.output": 8, "auxiliary": 8}
_EIGHT = {"rnnt": EIGHT, "conformer": {**EIGHT, "encoder.blocks.*.convolution.depthwise": 8}}


@dataclass(frozen=True)
class Row:
    """Bits and activations by layer.

    ``overrides`` and ``activation`` are those of ``quantize.prepare``, by network.
    """

    title: str
    bits: int
    overrides: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    activation: Mapping[str, Any] = field(default_factory=dict)

    def options(self, network: str) -> dict[str, Any]:
        """Arguments of ``quantize.prepare``."""
        return {
            "bits": self.bits,
            "overrides": {**self.overrides.get(network, {}), **_EIGHT[network]},
            "activation": self.activation.get(network, "fp32"),
        }


_ONE_BIT = {
    "rnnt": "encoder.lstm.1",
    "conformer": "encoder.blocks.[12].*.[ud][po]*",  # up and down of the feed-forward modules
}
ROWS = {
    **{str(n): Row(f"{n} bits", n) for n in (8, 6, 5, 4, 3, 2)},
    # What loses least by it, by the sensitivities that gq_tvm.allocate measures.
    "2-1": Row(
        "2 bits, 1 in recurrent or feed-forward weights of the encoder",
        2,
        {
            "rnnt": {"encoder.lstm.*.weight_hh_l0": 1},
            "conformer": {"encoder.blocks.*.first": 1, "encoder.blocks.*.second": 1},
        },
    ),
    "1-encoder": Row(
        "1 bit in the encoder, 4 elsewhere",
        4,
        {"rnnt": {"encoder.lstm.*": 1}, "conformer": {"encoder.blocks": 1}},
    ),
    "4-int8": Row("4 bits, int8 activations", 4, activation={"rnnt": "int8", "conformer": "int8"}),
    "2-int8": Row("2 bits, int8 activations", 2, activation={"rnnt": "int8", "conformer": "int8"}),
    "1-int1": Row(
        "1 bit and 1-bit activations in chosen layers, 4 bits and int8 elsewhere",
        4,
        {name: {pattern: 1} for name, pattern in _ONE_BIT.items()},
        {name: {"*": "int8", pattern: "int1"} for name, pattern in _ONE_BIT.items()},
    ),
}
#: Rows whose cells carry the claims, with the methods that have three seeds.
CLAIMS = {"4": ("gq",), "2": ("gq", "lsq"), "2-1": ("gq",)}
SEEDS = (1, 2, 3)

#: The network and row of the ablations: the one that loses most.
ABLATED = ("conformer", "2-1")
#: What is changed there, one at a time: arguments of prepare and Annealing.
ABLATIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fixed": ("centroids fixed", {"learn_centroids": False}, {}),
    "mu-0": ("mu = 0: centroids in linear space", {"mu": 0.0}, {}),
    "mu-learned": ("mu learned", {"learn_mu": True}, {}),
    "every-4": ("quantiser at every 4th soft step", {}, {"every": 4}),
    "hard-all": ("hard from the first step", {}, {"hard": 1.0}),
}


@dataclass(frozen=True)
class Cell:
    """One training or one rounding, evaluated."""

    network: str
    row: str  # of ROWS, or "fp32", or "int8"
    method: str  # of METHODS or AFTER_TRAINING, or "fp32", "float" (no more steps) or "int8"
    seed: int
    ablation: str = ""

    @property
    def name(self) -> str:
        """The name of its result file."""
        parts = [self.network, self.row, self.method, self.ablation, f"seed{self.seed}"]
        return "_".join(part for part in parts if part)

    @property
    def trains(self) -> bool:
        """Whether it has steps of its own."""
        return self.method in ("fp32", "int8", "lsq", "gq")

    @property
    def compresses(self) -> bool:
        """Whether ``quantize.compress`` makes it."""
        return self.method in ("compress", "compress-row")

    @property
    def deployed(self) -> bool:
        """Whether its weights are trained as they are quantised: those are compiled too."""
        return self.trains and self.method != "fp32"


def cells() -> Iterator[Cell]:
    """All cells; those that carry the claims first."""
    for network in NETWORKS:
        for seed in SEEDS:
            yield Cell(network, "fp32", "fp32", seed)
            yield Cell(network, "int8", "int8", seed)
            for row, methods in CLAIMS.items():
                for method in methods:
                    yield Cell(network, row, method, seed)
    for network in NETWORKS:
        for row in ROWS:
            for method in METHODS:
                if method not in CLAIMS.get(row, ()):
                    yield Cell(network, row, method, 1)
    for ablation in ABLATIONS:
        yield Cell(*ABLATED, "gq", 1, ablation)


def cells_after_training() -> Iterator[Cell]:
    """Those of the other table: the float networks, then what compresses them as they are."""
    for network in NETWORKS:
        yield Cell(network, "fp32", "float", 1)
        for row in ROWS:
            for method in AFTER_TRAINING:
                yield Cell(network, row, method, 1)
