"""The four networks a recogniser may have, small and with random weights that say something.

And the Conformer of the benchmarks, as others write it: a whole chunk at a time, with batch norm.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import cast

import numpy as np
import torch
from torch import nn

from benchmarks.models import Conformer
from gq_tvm import quantize
from gq_tvm.models.networks.conformer import ConformerSettings
from gq_tvm.models.networks.ctc import CTCSettings
from gq_tvm.models.networks.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.networks.network import Network, NetworkSettings, build
from gq_tvm.models.networks.rnnt import RNNT as Transducer
from gq_tvm.models.networks.rnnt import RNNTSettings
from gq_tvm.speech import FeatureSettings, Recogniser
from gq_tvm.speech.tokens import BLANK

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
# Layers that the network in question has; what is not named has four.
BITS = {
    "encoder.lstm.1": 2,
    "encoder.blocks.*.attention.*": 2,
    "encoder.blocks.1.convolution.depthwise": 5,
    "encoder.projection": 8,
}


def lively(name: str, seed: int = 1) -> Network:
    """A float network in evaluation mode that does not always say the same token."""
    torch.manual_seed(seed)
    model = build(ALL[name]).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if parameter.endswith("positions"):
                value.normal_(0, 0.5)
        for layer, factor in _factors(model):
            layer.get_parameter("weight").mul_(factor)
        _scores(model).bias[BLANK] += 6 if isinstance(model, Transducer) else 1
    return model


def compressed(name: str, activation: str = "int8", seed: int = 1) -> Network:
    """The same with its weights in codebooks of mixed bits."""
    model = lively(name, seed)
    there = [one for one, _ in model.named_modules()]
    overrides = {
        pattern: bits
        for pattern, bits in BITS.items()
        if any(fnmatch(one, pattern) for one in there)
    }
    quantised = quantize.compress(model, 4, overrides, activation)
    return quantised.eval()  # type: ignore[return-value]


def whole_conformer(activation: str = "fp32", seed: int = 0) -> nn.Module:
    """A block over frames f32 [T, 32] -> [T, 32], its weights in codebooks of 16 values."""
    torch.manual_seed(seed)
    model = Conformer(blocks=1, width=32)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):  # as if it had been trained
            state = norm.state_dict()
            for name, mean in (("weight", 1), ("bias", 0), ("running_mean", 0)):
                nn.init.normal_(state[name], mean, 0.3)
            nn.init.uniform_(state["running_var"], 0.5, 2)
    return quantize.compress(model, 4, activation=activation).eval()


def noise(length: int = 5000, seed: int = 7) -> np.ndarray:
    """Samples f32 of a tone that jumps and noise; with seed 7 no two tokens are nearly tied."""
    rng = np.random.default_rng(seed)
    pitch = np.repeat(rng.uniform(100, 3500, length // 1000 + 1), 1000)[:length]
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / 8000)
    return (0.2 * tone + rng.normal(0, 0.01, length)).astype(np.float32)


def chunks(one: Recogniser, samples: np.ndarray) -> list[str]:
    """The text after each chunk, as a microphone gives them."""
    session, step = one.session(), one.chunk_samples
    texts = [session.accept(samples[at : at + step]) for at in range(0, len(samples), step)]
    return [*texts, session.finish()]


def _factors(model: Network) -> list[tuple[nn.Module, float]]:
    """Layers, and by how much more they must say for tokens to differ."""
    encoder = model.get_submodule("encoder.projection")
    if not isinstance(model, Transducer):
        return [(encoder, 15)]
    predictor = model.predictor
    return [
        (encoder, 15), (predictor.embedding, 3), (predictor.projection, 8), (model.joint.output, 6)
    ]  # fmt: skip


def _scores(model: Network) -> nn.Linear:
    """The layer whose outputs are the scores of tokens."""
    if isinstance(model, Transducer):
        return model.joint.output
    return cast(nn.Linear, model.get_submodule("encoder.projection"))
