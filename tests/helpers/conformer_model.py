"""A Conformer (Gulati et al., 2020, arXiv:2005.08100) whose weights live in codebooks.

In the plain form people write it, with scaled dot product attention and no positions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from helpers.codebook_models import Conv, Linear


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, activation: str, seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = Linear(inner, width, activation=activation, seed=seed)
        self.down = Linear(width, inner, activation=activation, seed=seed + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.dropout(F.silu(self.up(self.norm(x))), 0.1, self.training))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, activation: str, seed: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (
            Linear(width, width, activation=activation, seed=seed + i) for i in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, width = x.shape
        x = self.norm(x)
        q, k, v = (
            one(x).view(batch, frames, self.heads, width // self.heads).transpose(1, 2)
            for one in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, frames, width))


class Convolution(nn.Module):
    def __init__(self, width: int, taps: int, causal: bool, activation: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = Conv(2 * width, width, 1, activation=activation)
        self.left = taps - 1 if causal else 0
        padding = 0 if causal else taps // 2
        self.depthwise = Conv(width, width, taps, padding=padding, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.project = Conv(width, width, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.expand(self.norm(x).transpose(1, 2)), dim=1)
        x = self.depthwise(F.pad(x, (self.left, 0)) if self.left else x)
        return self.project(F.silu(self.batch_norm(x))).transpose(1, 2)


class Block(nn.Module):
    def __init__(
        self, width: int, heads: int, inner: int, taps: int, causal: bool, activation: str,
        seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first = FeedForward(width, inner, activation, seed)
        self.attention = Attention(width, heads, activation, seed + 10)
        self.convolution = Convolution(width, taps, causal, activation)
        self.second = FeedForward(width, inner, activation, seed + 20)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x)
        x = x + self.convolution(x)
        x = x + 0.5 * self.second(x)
        return self.norm(x)


class Conformer(nn.Sequential):
    """Blocks over frames f32 [B, T, width] -> [B, T, width]."""

    def __init__(
        self, width: int = 32, blocks: int = 1, heads: int = 2, inner: int = 48, taps: int = 7,
        causal: bool = False, activation: str = "fp32",
    ) -> None:  # fmt: skip
        super().__init__(
            *(Block(width, heads, inner, taps, causal, activation, 100 * i) for i in range(blocks))
        )
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm1d):  # as if it had been trained
                state = norm.state_dict()
                nn.init.normal_(state["weight"], 1, 0.3)
                nn.init.normal_(state["bias"], 0, 0.3)
                nn.init.normal_(state["running_mean"], 0, 0.3)
                nn.init.uniform_(state["running_var"], 0.5, 2)
