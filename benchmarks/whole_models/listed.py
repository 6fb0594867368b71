"""The models: published sizes, random weights, which time does not hang on, and inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Tensors = tuple[torch.Tensor, ...]
_SECOND = 16_000  # samples of speech
_TOKENS = 16  # that a decoder has given before the step that is timed


@dataclass(frozen=True)
class Entry:
    """A model.

    Attributes:
        name: What its results are kept under.
        title: How the report calls it.
        make: The float model, which returns tensors, and inputs.
    """

    name: str
    title: str
    make: Callable[[], tuple[nn.Module, Tensors]]


class _Call(nn.Module):
    """A model of transformers': it is called by ``how``, and what that returns is returned."""

    def __init__(self, model: nn.Module, how: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.how = model, how

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.how(self.model, *inputs)


def _logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).logits


def _wav2vec2() -> tuple[nn.Module, Tensors]:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    return _Call(Wav2Vec2ForCTC(Wav2Vec2Config()), _logits), (torch.randn(1, _SECOND),)


def _hubert() -> tuple[nn.Module, Tensors]:
    from transformers import HubertConfig, HubertForCTC

    return _Call(HubertForCTC(HubertConfig()), _logits), (torch.randn(1, _SECOND),)


def _speecht5() -> Any:
    from transformers import SpeechT5Config, SpeechT5ForSpeechToText

    return SpeechT5ForSpeechToText(SpeechT5Config()).speecht5


def _speecht5_encoder() -> tuple[nn.Module, Tensors]:
    def encoded(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).last_hidden_state

    return _Call(_speecht5().encoder, encoded), (torch.randn(1, _SECOND),)


def _speecht5_step() -> tuple[nn.Module, Tensors]:
    model: Any = _speecht5().decoder
    config = model.config
    frames = 49  # the encoder's, of a second
    wide = (1, config.decoder_attention_heads)
    each = config.hidden_size // config.decoder_attention_heads
    states = [
        torch.randn(*wide, length, each)
        for _ in range(config.decoder_layers)
        for length in (_TOKENS, _TOKENS, frames, frames)
    ]
    inputs = (torch.full((1, 1), 7), torch.randn(1, frames, config.hidden_size), *states)
    return _Call(model, _step), inputs


def _step(
    model: nn.Module, token: torch.Tensor, encoded: torch.Tensor, *states: torch.Tensor
) -> Sequence[torch.Tensor]:
    """One token behind ``_TOKENS``: keys and values of both attentions come in, and go out."""
    from transformers import DynamicCache, EncoderDecoderCache

    layers = [states[at : at + 4] for at in range(0, len(states), 4)]
    own, across = DynamicCache(), DynamicCache()
    for at, (key, value, key_across, value_across) in enumerate(layers):
        own.update(key, value, at)
        across.update(key_across, value_across, at)
    cache = EncoderDecoderCache(own, across)
    y = model(
        token, encoder_hidden_states=encoded, past_key_values=cache, use_cache=True
    ).last_hidden_state
    return (y, *(one for layer in own.layers for one in (layer.keys, layer.values)))


def _hifigan() -> tuple[nn.Module, Tensors]:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(SpeechT5HifiGanConfig()), (torch.randn(1, 40, 80),)


def _vit_tiny() -> tuple[nn.Module, Tensors]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=1000
    )
    return _Call(ViTForImageClassification(config), _logits), (torch.randn(1, 3, 224, 224),)


def _mobilenet(size: str) -> tuple[nn.Module, Tensors]:
    from torchvision import models

    return getattr(models, f"mobilenet_v3_{size}")(), (torch.randn(1, 3, 224, 224),)


def _let_torchvision_load() -> None:
    """Declare its compiled operators, which do not load beside a CPU build of PyTorch.

    None is called here, but without a declaration torchvision fails to be imported, and with it
    what imports it.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)  # what it declares goes when it does


_kept: list[torch.library.Library] = []
_let_torchvision_load()

MODELS = (
    Entry("wav2vec2", "Wav2Vec2 base, 1 s", _wav2vec2),
    Entry("hubert", "HuBERT base, 1 s", _hubert),
    Entry("speecht5_encoder", "SpeechT5: speech encoder, 1 s", _speecht5_encoder),
    Entry("speecht5_step", f"SpeechT5: decoder, a step behind {_TOKENS}", _speecht5_step),
    Entry("hifigan", "SpeechT5's HiFi-GAN, 40 frames", _hifigan),
    Entry("mobilenet_small", "MobileNetV3 small", lambda: _mobilenet("small")),
    Entry("mobilenet_large", "MobileNetV3 large", lambda: _mobilenet("large")),
    Entry("vit_tiny", "ViT-tiny, patches of 16", _vit_tiny),
)
