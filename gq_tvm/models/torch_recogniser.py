"""A network in PyTorch as a :class:`gq_tvm.speech.Recogniser`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from gq_tvm.models.networks.network import Network, task
from gq_tvm.speech import tokens
from gq_tvm.speech.description import RecogniserDescription
from gq_tvm.speech.features import FeatureSettings, extract
from gq_tvm.speech.recogniser import Recogniser

CHUNK_FRAMES = 4
LEAD_MS = 0.0
TAIL_MS = 400.0


def description(
    model: Network, features: FeatureSettings, training: dict[str, Any] | None = None
) -> RecogniserDescription:
    """What a recogniser must know beside its networks."""
    return RecogniserDescription(
        task=task(model),
        tokens=tokens.CHARACTERS,
        features=features,
        states=model.state_shapes(),
        chunk_frames=CHUNK_FRAMES,
        lead_ms=LEAD_MS,
        tail_ms=TAIL_MS,
        training=training or {},
    )


def deployed_features(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Features f32 [T, F] of samples f32 [n] as a deployed recogniser hears them.

    Silence goes before and behind them, as :func:`description` says.
    """
    rate = settings.sample_rate
    lead, tail = (np.zeros(round(rate * ms / 1000), np.float32) for ms in (LEAD_MS, TAIL_MS))
    return extract(np.concatenate([lead, samples, tail]), settings)


def recogniser(model: Network, features: FeatureSettings) -> Recogniser:
    """A recogniser that runs ``model`` as it is; puts it into evaluation mode."""
    model.eval()
    networks = {name: on_numpy(network) for name, network in model.named_children()}
    return Recogniser(description(model, features).to_dict(), networks)


def on_numpy(network: nn.Module | Callable[..., Any]) -> Callable[..., Any]:
    """A PyTorch network as a function of NumPy arrays."""

    def call(*arrays: np.ndarray) -> Any:
        with torch.inference_mode():
            outputs = network(*map(torch.from_numpy, arrays))
        if isinstance(outputs, torch.Tensor):
            return outputs.numpy()
        return tuple(output.numpy() for output in outputs)

    return call
