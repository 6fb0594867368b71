"""Models as functions of tensors alone, which is what torch.export takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Chosen(nn.Module):
    """The first output of a model that takes its arguments by name.

    Args:
        model: It.
        names: Of the arguments, in order.
        constant: Arguments that are no tensors.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], constant: Mapping[str, Any]):
        super().__init__()
        self.model = model
        self._names, self._constant = names, dict(constant)

    def forward(self, *inputs: Tensor) -> Tensor:
        """It."""
        given = dict(zip(self._names, inputs, strict=True))
        found = self.model(**given, **self._constant)
        return found if isinstance(found, Tensor) else found[0]


class DecoderStep(nn.Module):
    """A step of Whisper's decoder: a token, the encoder's frames, keys and values in and out.

    Args:
        model: A ``WhisperForConditionalGeneration``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.decoder, model.proj_out

    def forward(self, token: Tensor, encoded: Tensor, *cached: Tensor) -> tuple[Tensor, ...]:
        """The logits of the next token, then keys and values of each layer, one step longer."""
        caches = importlib.import_module("transformers.cache_utils")
        pairs = list(zip(cached[::2], cached[1::2], strict=True))
        cache = caches.EncoderDecoderCache(caches.DynamicCache(pairs), caches.DynamicCache())
        y = self.decoder(
            input_ids=token,
            encoder_hidden_states=encoded,
            past_key_values=cache,
            use_cache=True,
            return_dict=False,
        )[0]
        layers = cache.self_attention_cache.layers
        return self.head(y), *(one for layer in layers for one in (layer.keys, layer.values))


class Streaming(nn.Module):
    """A step of torchaudio's Emformer: a segment with its right context, and the state.

    Args:
        model: An ``Emformer`` of 2 layers, 64 wide, with 8 frames of left context.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @staticmethod
    def states() -> tuple[Tensor, ...]:
        """A state of both layers: memory, keys, values, and how many frames went by."""
        one = (torch.zeros(0, 1, 64), torch.randn(8, 1, 64), torch.randn(8, 1, 64))
        return tuple(part for _ in range(2) for part in (*one, torch.full((1, 1), 8).int()))

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The frames of the segment, then the new state, flat."""
        layers = [list(states[at : at + 4]) for at in range(0, len(states), 4)]
        lengths = torch.full((len(frames),), frames.shape[1])
        y, _, new = self.model.infer(frames, lengths, layers)
        return y, *(part for layer in new for part in layer)
