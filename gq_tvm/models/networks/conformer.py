"""A streaming Conformer encoder (Gulati et al., 2020, arXiv 2005.08100).

What makes it stream is our choice: attention looks back over a fixed number of frames and never
ahead, so the answer at a frame does not depend on how the signal was cut into calls; the depthwise
convolution is causal; layer norm stands where the paper has batch norm; positions are a learned
bias a head and distance (Raffel et al., 2020, arXiv 1910.10683, section 2.1, without buckets).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gq_tvm.errors import Error

_NEVER = -1e9  # added to the score of a frame that attention must not see


@dataclass(frozen=True)
class ConformerSettings:
    """Width, blocks, heads, inner width of the feed-forward modules, taps of the convolution.

    ``context`` is the number of frames before its own that attention at a frame sees.
    """

    size: int = 96
    layers: int = 4
    heads: int = 4
    inner: int = 256
    taps: int = 9
    context: int = 32
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.size % self.heads:
            raise Error(
                f"a Conformer of {self.size} values cannot be cut into {self.heads} heads; "
                "choose a size that is a multiple of heads"
            )


class FeedForward(nn.Module):
    """Norm, expansion, SiLU, contraction: [B, T, D] -> [B, T, D]."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(settings.size)
        self.up = nn.Linear(settings.size, settings.inner)
        self.down = nn.Linear(settings.inner, settings.size)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The residual branch."""
        y = self.dropout(functional.silu(self.up(self.norm(x))))
        return self.dropout(self.down(y))


class Attention(nn.Module):
    """Causal self-attention over the last ``context`` frames, whose keys and values are kept."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        size = settings.size
        self.heads, self.context = settings.heads, settings.context
        self.norm = nn.LayerNorm(size)
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)  # a bias of keys cancels in the softmax
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One call.

        Args:
            x: f32 [B, T, D].
            keys: f32 [B, C, D], those of the C frames before.
            values: f32 [B, C, D].
            bias: f32 [B, heads, T, C + T], added to the scores.

        Returns:
            The residual branch [B, T, D], and the keys and values of the last C frames.
        """
        frames = x.shape[1]
        x = self.norm(x)
        keys = torch.cat([keys, self.key(x)], 1)
        values = torch.cat([values, self.value(x)], 1)
        q, k, v = (self._split(one) for one in (self.query(x), keys, values))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = self.out(y.transpose(1, 2).flatten(2))
        return self.dropout(y), keys[:, frames:], values[:, frames:]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, x.shape[2] // self.heads)).transpose(1, 2)


class Convolution(nn.Module):
    """Gated pointwise, causal depthwise and pointwise convolution, as layers over frames."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        size = settings.size
        self.norm = nn.LayerNorm(size)
        self.expand = nn.Linear(size, 2 * size)
        self.depthwise = nn.Conv1d(size, size, settings.taps, groups=size)
        self.middle_norm = nn.LayerNorm(size)
        self.project = nn.Linear(size, size)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B, T, D] and the taps - 1 gated frames before [B, taps - 1, D]; both again."""
        frames = x.shape[1]
        gated = torch.cat([past, functional.glu(self.expand(self.norm(x)), dim=-1)], 1)
        y = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        y = self.project(functional.silu(self.middle_norm(y)))
        return self.dropout(y), gated[:, frames:]


class Block(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step, norm."""

    def __init__(self, settings: ConformerSettings) -> None:
        super().__init__()
        self.first = FeedForward(settings)
        self.attention = Attention(settings)
        self.convolution = Convolution(settings)
        self.second = FeedForward(settings)
        self.norm = nn.LayerNorm(settings.size)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, past: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames [B, T, D] with the block's state; both again."""
        x = x + 0.5 * self.first(x)
        y, keys, values = self.attention(x, keys, values, bias)
        x = x + y
        y, past = self.convolution(x, past)
        x = x + y
        return self.norm(x + 0.5 * self.second(x)), keys, values, past


class ConformerEncoder(nn.Module):
    """Blocks between an input layer and a projection.

    Args:
        settings: sizes.
        features: F, values in a frame.
        outputs: J, values of the projection.
    """

    def __init__(self, settings: ConformerSettings, features: int, outputs: int) -> None:
        super().__init__()
        self.settings = settings
        self.input = nn.Linear(features, settings.size)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        # Scores by head and distance in frames, 0 ... context; floats, like norms.
        self.positions = nn.Parameter(torch.zeros(settings.heads * (settings.context + 1)))
        self.projection = nn.Linear(settings.size, outputs)

    def state_shapes(self, batch: int) -> dict[str, list[int]]:
        """Shapes of the state's tensors, f32, in the order ``forward`` takes them; zeros first.

        ``seen`` is 1 at frames of the context that were there and 0 before the first.
        """
        s = self.settings
        context = [s.layers, batch, s.context, s.size]
        past = [s.layers, batch, s.taps - 1, s.size]
        return {"keys": context, "values": context, "past": past, "seen": [batch, s.context]}

    def forward(
        self, features: Tensor, keys: Tensor, values: Tensor, past: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Features [B, T, F] and the state -> projection [B, T, J] and the new state."""
        batch, frames = features.shape[:2]
        seen = torch.cat([seen, seen.new_ones(batch, frames)], 1)
        bias = self._bias(frames, seen)
        x = self.dropout(self.input(features))
        kept: list[tuple[Tensor, ...]] = []
        for layer, block in enumerate(self.blocks):
            x, *state = block(x, keys[layer], values[layer], past[layer], bias)
            kept.append(tuple(state))
        new = (torch.stack(tensors) for tensors in zip(*kept, strict=True))
        keys, values, past = new
        return self.projection(x), keys, values, past, seen[:, frames:]

    def _bias(self, frames: int, seen: Tensor) -> Tensor:
        """What is added to scores: f32 [B, heads, T, C + T]."""
        context = self.settings.context
        at = torch.arange(frames, device=seen.device)[:, None] + context
        distance = at - torch.arange(context + frames, device=seen.device)
        table = self.positions.view(self.settings.heads, context + 1)
        bias = table[:, distance.clamp(0, context)]
        outside = ((distance < 0) | (distance > context)).to(seen.dtype) * _NEVER
        return bias + outside + ((1 - seen) * _NEVER)[:, None, None]
