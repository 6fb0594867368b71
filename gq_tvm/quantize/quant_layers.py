"""The layers of a model in training: PyTorch's own, with quantisers before their weights.

``prepare`` turns a layer into one of these in place, so parameters, hooks and references to it
stay. In ``train`` mode the forward is differentiable, with activations rounded straight through.
In ``eval`` mode it computes what the converted model will, integers and all, without gradients.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gq_tvm.ops import torch_ops
from gq_tvm.quantize.activation import fake_quantize_rows
from gq_tvm.quantize.codebook_layers import zero_padding
from gq_tvm.quantize.quantizer import Quantizer


class QuantLayer(nn.Module):
    """What the quantised layers share: their quantisers, and weights expanded once for eval."""

    quantizers: nn.ModuleDict
    activation: str
    _operands: dict[str, tuple[Any, torch_ops.Operand]]

    def attach(self, quantizers: dict[str, Quantizer], activation: str) -> None:
        """Put a quantiser before each named weight."""
        self.quantizers = nn.ModuleDict(quantizers)
        self.activation = activation
        self._operands = {}

    def train(self, mode: bool = True) -> QuantLayer:
        """As ``nn.Module.train``; forgets the expanded weights."""
        self._operands.clear()
        return super().train(mode)

    def quantizer(self, name: str) -> Quantizer:
        """The quantiser before the named weight."""
        return cast(Quantizer, self.quantizers[name])

    def quantized(self, name: str) -> Tensor:
        """The named weight as training sees it."""
        return self.quantizer(name)(getattr(self, name))

    def hardened(self, name: str) -> tuple[Tensor, Tensor]:
        """Indices and codebook of the named weight."""
        return self.quantizer(name).harden(getattr(self, name))

    def operand(self, name: str) -> torch_ops.Operand:
        """The named weight as deployment sees it, kept until a tensor behind it changes."""
        weight = getattr(self, name)
        quantizer = self.quantizer(name)
        tensors = [weight, *quantizer.parameters(), *quantizer.buffers()]
        key = [(t.data_ptr(), t._version) for t in tensors]
        kept = self._operands.get(name)
        if kept is None or kept[0] != key:
            kept = key, torch_ops.operand(*self.hardened(name), self.activation)
            self._operands[name] = kept
        return kept[1]


class QuantLinear(QuantLayer, nn.Linear):
    """``nn.Linear`` in training."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``: f32 [..., K] -> f32 [..., N]."""
        if not self.training:
            with torch.no_grad():
                y = torch_ops.product(input, self.operand("weight"))
                return y if self.bias is None else y + self.bias
        x = fake_quantize_rows(input, self.activation)
        return F.linear(x, self.quantized("weight"), self.bias)


class QuantConv1d(QuantLayer, nn.Conv1d):
    """``nn.Conv1d`` in training."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Conv1d``: f32 [B, C, T] or [C, T] -> f32 [B, N, T'] or [N, T']."""
        padding, pad = self.symmetric_padding()
        x = input if input.dim() == 3 else input.unsqueeze(0)
        if pad is not None:
            x = F.pad(x, pad[:2], pad[2])
        taps, stride, dilation = self.kernel_size[0], self.stride[0], self.dilation[0]
        if not self.training:
            with torch.no_grad():
                weight = self.operand("weight")
                y = torch_ops.conv1d(
                    x, weight, self.bias, taps, stride, padding, dilation, self.groups
                )
        elif self.activation != "fp32":
            rows = torch_ops.unfold1d(x, taps, stride, padding, dilation)
            rows = fake_quantize_rows(rows, self.activation)
            y = F.linear(rows, self.quantized("weight").flatten(1), self.bias).transpose(1, 2)
        else:
            weight = self.quantized("weight")
            y = F.conv1d(x, weight, self.bias, stride, padding, dilation, self.groups)
        return y if input.dim() == 3 else y.squeeze(0)

    def symmetric_padding(self) -> tuple[int, tuple[int, int, str] | None]:
        """Zero frames at both ends, and (left, right, mode) for what that cannot say."""
        left, right = self._reversed_padding_repeated_twice
        if self.padding_mode == "zeros" and left == right:
            return left, None
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return 0, (left, right, mode)


class QuantEmbedding(QuantLayer, nn.Embedding):
    """``nn.Embedding`` in training; the row of ``padding_idx`` counts as zero."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Embedding``: i64 [...] -> f32 [..., D]."""
        if self.training:
            rows = F.embedding(input, self.quantized("weight"))
        else:
            with torch.no_grad():
                rows = F.embedding(input, cast(Tensor, self.operand("weight")))
        return zero_padding(rows, input, self.padding_idx)
