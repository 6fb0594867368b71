"""Whisper (Radford et al. 2022, arXiv:2212.04356) in plain PyTorch, shaped for export.

Modules are called as in transformers' ``WhisperModel``, so that its checkpoints fit. What decoding
keeps are plain tensors: keys and values of the encoder's frames, made once a recording, and those
of the tokens so far, in an array with room for more that the caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64  # elements of an attention head, in every size of Whisper


@dataclass(frozen=True)
class Sizes:
    """What tells sizes of Whisper apart.

    Attributes:
        mels: Channels of the features.
        width: D, of the states.
        layers: L, of the encoder and of the decoder.
        vocabulary: V, tokens.
        frames: S, states of a recording, half as many as frames of features.
        context: Tokens a text has at most.
    """

    mels: int = 80
    width: int = 384
    layers: int = 4
    vocabulary: int = 51864
    frames: int = 1500
    context: int = 448

    @property
    def heads(self) -> int:
        """N, of every attention."""
        return self.width // HEAD


class Attention(nn.Module):
    """Attention of several heads; keys and values can be made apart from what attends to them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of states f32 [B, S, D]: f32 [B, S, N, 64] twice."""
        return _heads(self.k_proj(x)), _heads(self.v_proj(x))

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """States f32 [B, T, D] that attended to [B, S, N, 64]; the mask is added to scores."""
        q, k, v = (one.transpose(1, 2) for one in (_heads(self.q_proj(x)), keys, values))
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (-1, HEAD))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each normalised before and added behind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = Attention(width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def feed_forward(self, x: Tensor) -> Tensor:
        """States f32 [B, T, D], each by itself."""
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))

    def forward(self, x: Tensor) -> Tensor:
        """States f32 [B, S, D]."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn(normed, *self.self_attn.keys_and_values(normed))
        return self.feed_forward(x)


class DecoderLayer(EncoderLayer):
    """The same, with attention to the encoder's frames between the two."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(width)

    def after_self_attention(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """States f32 [B, T, D], given the encoder's keys and values."""
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), keys, values)
        return self.feed_forward(x)


class Encoder(nn.Module):
    """Log-mel features f32 [B, mels, 2 S] -> states f32 [B, S, D]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(sizes.mels, sizes.width, 3, padding=1)
        self.conv2 = nn.Conv1d(sizes.width, sizes.width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(sizes.frames, sizes.width)
        self.layers = nn.ModuleList(EncoderLayer(sizes.width) for _ in range(sizes.layers))
        self.layer_norm = nn.LayerNorm(sizes.width)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
        x = x + self.embed_positions(torch.arange(x.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class Decoder(nn.Module):
    """Tokens and what the encoder made of a recording -> states f32 [B, T, D]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.embed_positions = nn.Embedding(sizes.context, sizes.width)
        self.layers = nn.ModuleList(DecoderLayer(sizes.width) for _ in range(sizes.layers))
        self.layer_norm = nn.LayerNorm(sizes.width)

    def blocks(self) -> list[DecoderLayer]:
        """The layers, in their order."""
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Of whole texts: tokens i64 [B, T], the encoder's states f32 [B, S, D]."""
        x = self.embed_tokens(tokens) + self.embed_positions(torch.arange(tokens.shape[1]))
        for layer in self.blocks():
            normed = layer.self_attn_layer_norm(x)
            own = layer.self_attn.keys_and_values(normed)
            x = x + layer.self_attn(normed, *own, is_causal=True)
            x = layer.after_self_attention(x, *layer.encoder_attn.keys_and_values(states))
        return self.layer_norm(x)


class Whisper(nn.Module):
    """Features f32 [B, mels, 2 S] and tokens i64 [B, T] -> logits f32 [B, T, V] of the next ones.

    The output projection is the embedding of the tokens: one weight.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = Encoder(sizes)
        self.decoder = Decoder(sizes)
        self.proj_out = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        self.proj_out.weight = self.decoder.embed_tokens.weight

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """See the class."""
        return self.proj_out(self.decoder(tokens, self.encoder(features)))


class Listen(nn.Module):
    """Features f32 [1, mels, 2 S] -> of each decoder layer keys and values f32 [1, S, N, 64]."""

    def __init__(self, whisper: Whisper) -> None:
        super().__init__()
        self.encoder, self.decoder = whisper.encoder, whisper.decoder

    def forward(self, features: Tensor) -> list[Tensor]:
        """See the class; keys and values of a layer stand side by side."""
        states = self.encoder(features)
        each = [layer.encoder_attn.keys_and_values(states) for layer in self.decoder.blocks()]
        return [one for pair in each for one in pair]


class Step(nn.Module):
    """One token of a text -> logits f32 [1, V] of the next, and its keys and values.

    The caller writes these into the cache at the token's position.
    """

    def __init__(self, whisper: Whisper) -> None:
        super().__init__()
        self.decoder, self.proj_out = whisper.decoder, whisper.proj_out

    def forward(
        self, token: Tensor, position: Tensor, heard: list[Tensor], cache: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """One step.

        Args:
            token: i64 [1, 1].
            position: Of the token in its text, i64 [1].
            heard: What ``Listen`` gave.
            cache: As ``heard`` in order, f32 [1, C, N, 64]; what stands before ``position`` is
                attended to.
        """
        x = self.decoder.embed_tokens(token) + self.decoder.embed_positions(position)
        unseen = torch.arange(cache[0].shape[1]) >= position
        mask = F.pad(unseen.float() * -1e30, (0, 1))  # the token itself, behind the cache, is seen
        mask = mask.view(1, 1, 1, -1)
        new: list[Tensor] = []
        for i, layer in enumerate(self.decoder.blocks()):
            normed = layer.self_attn_layer_norm(x)
            own = layer.self_attn.keys_and_values(normed)
            new += own
            keys, values = (
                torch.cat(two, 1) for two in zip(cache[2 * i : 2 * i + 2], own, strict=True)
            )
            x = x + layer.self_attn(normed, keys, values, mask)
            x = layer.after_self_attention(x, *heard[2 * i : 2 * i + 2])
        return self.proj_out(self.decoder.layer_norm(x))[:, 0], new
