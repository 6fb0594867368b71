"""The four networks a recogniser may have, small and with random weights that say something."""

from __future__ import annotations

import numpy as np
import torch

from gq_tvm import quantize
from gq_tvm.models.conformer import ConformerSettings
from gq_tvm.models.ctc import CTCSettings
from gq_tvm.models.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.network import Network, NetworkSettings, build
from gq_tvm.models.rnnt import RNNTSettings
from gq_tvm.speech import FeatureSettings

FEATURES = FeatureSettings(mean=(-5.0,) * 40, deviation=(1.0,) * 40)
LSTM = LSTMEncoderSettings(size=24, layers=2)
CONFORMER = ConformerSettings(size=24, layers=2, heads=2, inner=40, taps=5, context=6)
RNNT = RNNTSettings(predictor_size=16, embedding_size=8, joint_size=12)
CTC = CTCSettings()

ALL = {
    f"{encoder} {head}": NetworkSettings(encoder=sizes, head=width)
    for encoder, sizes in (("lstm", LSTM), ("conformer", CONFORMER))
    for head, width in (("rnnt", RNNT), ("ctc", CTC))
}
# One to eight bits, in either encoder and head; what is in neither is left out.
BITS = {
    "encoder.lstm.1*": 2,
    "encoder.blocks.0.attention.*": 2,
    "encoder.blocks.0.convolution.depthwise": 5,
    "encoder.blocks.1.first.*": 1,
    "encoder.blocks.1.second.*": 3,
    "encoder.projection": 8,
}


def lively(name: str, seed: int = 0) -> Network:
    """A float network in evaluation mode that does not always say the same token."""
    torch.manual_seed(seed)
    model = build(ALL[name]).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if parameter.endswith("positions"):
                value.normal_(0, 0.5)
        for layer in (model.encoder.projection, *_outputs(model)):
            layer.weight *= 6
    return model


def compressed(name: str, activation: str = "int8", seed: int = 0) -> Network:
    """The same with its weights in codebooks of mixed bits."""
    model = lively(name, seed)
    there = [one for one, _ in model.named_modules()]
    overrides = {
        pattern: bits
        for pattern, bits in BITS.items()
        if any(one.startswith(pattern.rstrip("*")) for one in there)
    }
    quantised = quantize.compress(model, 4, overrides, activation)
    return quantised.eval()  # type: ignore[return-value]


def noise(length: int = 12000, seed: int = 1) -> np.ndarray:
    """Samples f32 that swell and fade, so that frames differ."""
    rng = np.random.default_rng(seed)
    swell = np.sin(np.arange(length) / 900) ** 2
    return (rng.normal(0, 0.1, length) * swell).astype(np.float32)


def _outputs(model: Network) -> list[torch.nn.Linear]:
    return [model.predictor.projection, model.joint.output] if hasattr(model, "joint") else []
