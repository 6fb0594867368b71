"""The trained float weights that a training or an allocation begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gq_tvm.errors import Error
from gq_tvm.models.configuration.config import Config
from gq_tvm.models.networks.network import Network, NetworkSettings, build
from gq_tvm.models.training import checkpoint
from gq_tvm.models.training.trainer import restore_model
from gq_tvm.speech.features import FeatureSettings

Start = tuple[Network, FeatureSettings, int]  # the last are the steps of the checkpoint's training


def configured(config: Config) -> Start | None:
    """What ``fp32.start_from`` or ``fp32.initial`` names; see :func:`float_checkpoint`."""
    if config.fp32.start_from:
        return float_checkpoint(config.fp32.start_from, config)
    if config.fp32.initial:
        return float_checkpoint(config.fp32.initial, config, finished=False)
    return None


def float_checkpoint(path: Path, config: Config, finished: bool = True) -> Start:
    """Network, features and steps of a float checkpoint that fits a configuration.

    Raises:
        Error: it holds something else, or its training is not ``finished`` although it has to be.
    """
    tensors, description = checkpoint.load(path)
    if description.get("phase") != "fp32":
        raise Error(f"{path} holds no float weights; give an fp32 checkpoint")
    kinds = {"model": dict, "features": dict, "step": int}
    if odd := [key for key, kind in kinds.items() if not isinstance(description.get(key), kind)]:
        raise Error(
            f"{path} does not say its {' and its '.join(odd)}; give a checkpoint of gq_tvm.train"
        )
    settings = NetworkSettings.from_dict(description["model"])
    features = FeatureSettings.from_dict(description["features"])
    wanted = {**config.features.to_dict(), "normalisation": None}
    if settings != config.network or {**features.to_dict(), "normalisation": None} != wanted:
        what = "model" if settings != config.network else "features"
        raise Error(f"{path} has another {what} than the configuration's; make the two agree")
    step, steps = description["step"], _steps(description)
    if finished and steps is not None and step < steps:
        raise Error(
            f"{path} was stopped at step {step} of {steps}; finish its training with --resume, or "
            "train on from it with fp32.initial"
        )
    model = build(settings)
    restore_model(model, tensors)
    return model, features, step


def _steps(description: dict[str, Any]) -> int | None:
    """The steps a checkpoint's training was to have, if it says so."""
    inside: Any = description
    for key in ("configuration", "fp32", "schedule", "steps"):
        inside = inside.get(key) if isinstance(inside, dict) else None
    return inside if isinstance(inside, int) else None
