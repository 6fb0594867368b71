"""OUTPUT.json: what a training gave."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gq_tvm import __version__, files
from gq_tvm.models.allocation.sizes import deployed_weights, float_vector_bytes
from gq_tvm.models.networks.network import Network
from gq_tvm.models.training.evaluation import Rate


def rates(found: Mapping[str, Mapping[str, Rate]]) -> dict[str, Any]:
    """Word error rates and their intervals, by kind of weights and by set."""
    return {
        "word_error_rate_percent": {
            kind: {name: rate.percent for name, rate in sets.items()}
            for kind, sets in found.items()
        },
        "word_error_rate_interval_percent": {
            kind: {name: list(rate.interval) for name, rate in sets.items()}
            for kind, sets in found.items()
        },
        "joined": "joined strings are isolated recordings put in a row, not continuous speech",
    }


def sizes(model: Network) -> dict[str, Any]:
    """The matrices of a prepared network, and the bytes of all its weights.

    ``vector_bytes`` is what stays in float beside the matrices: biases and norms.
    """
    layers = [
        {
            "name": weight.name,
            "shape": list(weight.shape),
            "bits": weight.bits,
            "activation": weight.activation,
            "packed_bytes": weight.size,
            "float_bytes": weight.float_size,
        }
        for weight in deployed_weights(model)
    ]
    return {
        "layers": layers,
        "packed_bytes": sum(weight.size for weight in deployed_weights(model)),
        "float_bytes": sum(weight.float_size for weight in deployed_weights(model)),
        "vector_bytes": float_vector_bytes(model),
    }


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    found = {name: version(name) for name in ("torch", "numpy", "kaldi-native-fbank", "jiwer")}
    try:
        asked = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True)
        found["espeak-ng"] = asked.stdout.split(":")[1].split()[0]
    except (OSError, IndexError):
        pass
    return {"gq-tvm": __version__, "python": platform.python_version(), **found}


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; raises Error when it cannot be written."""
    files.write_text(path, json.dumps(values, indent=1) + "\n", "make room, then resume")
