"""The whole models, in PyTorch: the parts of a streaming recogniser at common sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StreamingLSTM(nn.Module):
    """A stack of LSTM layers that takes one frame a call and gets its state back from the caller.

    Args:
        width: Of the frames and of every layer.
        layers: How many.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x f32 [1, 1, width], h and c f32 [layers, 1, width] -> y like x, new h and c."""
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c

    def example_inputs(self) -> tuple[Tensor, ...]:
        """A frame and a state within the range of the state's values."""
        random = torch.Generator().manual_seed(2)
        x = torch.randn(1, 1, self.lstm.input_size, generator=random)
        shape = (2, self.lstm.num_layers, 1, self.lstm.hidden_size)
        h, c = 0.3 * torch.randn(*shape, generator=random)
        return x, h, c


class Conformer(nn.Module):
    """Conformer blocks (Gulati et al., 2020) on a chunk of frames, without positions.

    Args:
        blocks: How many.
        frames: Of a chunk.
        width: Of a frame.
    """

    def __init__(self, blocks: int = 8, frames: int = 64, width: int = 256) -> None:
        super().__init__()
        self.frames, self.width = frames, width
        self.blocks = nn.ModuleList(ConformerBlock(width) for _ in range(blocks))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """x f32 [frames, width] -> y like x."""
        x = x.unsqueeze(0)
        for block in self.blocks:
            x = block(x)
        return (x.squeeze(0),)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """A chunk of Gaussian frames."""
        random = torch.Generator().manual_seed(2)
        return (torch.randn(self.frames, self.width, generator=random),)


class ConformerBlock(nn.Module):
    """Half a feed-forward module, attention, convolution, the other half, layer norm.

    Args:
        width: Of a frame.
        heads: Of the attention.
        expansion: The feed-forward modules' inner width, in widths.
        kernel: Frames the depthwise convolution sees.
    """

    def __init__(self, width: int, heads: int = 4, expansion: int = 4, kernel: int = 31) -> None:
        super().__init__()
        self.heads, self.width, self.kernel = heads, width, kernel
        self.feed1, self.feed2 = (FeedForward(width, expansion * width) for _ in range(2))
        self.attention_norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.attended = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.convolution_norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.convolved = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """x f32 [1, frames, width] -> like x."""
        x = x + 0.5 * self.feed1(x)
        x = x + self._attend(self.attention_norm(x))
        x = x + self._convolve(self.convolution_norm(x))
        x = x + 0.5 * self.feed2(x)
        return self.norm(x)

    def _attend(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.reshape(1, -1, self.heads, self.width // self.heads).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.attended(y.reshape(1, -1, self.width))

    def _convolve(self, x: Tensor) -> Tensor:
        y = F.glu(self.gated(x), dim=-1).transpose(1, 2)
        y = self.batch_norm(self.depthwise(y)).transpose(1, 2)
        return self.convolved(F.silu(y))


class FeedForward(nn.Module):
    """Layer norm, a wide layer, SiLU, a narrow layer.

    Args:
        width: Of a frame.
        inner: Of the wide layer.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """x f32 [frames, width] -> like x."""
        y = self.wide(self.norm(x))
        return self.narrow(F.silu(y))
