"""``nn.MultiheadAttention`` in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gq_tvm.ops import torch_weight
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.deployed.codebook_attention import PROJECTIONS, CodebookMultiheadAttention
from gq_tvm.quantize.deployed.codebook_layers import CodebookLinear
from gq_tvm.quantize.drop_in.attention import Options, attend
from gq_tvm.quantize.drop_in.replacement import become
from gq_tvm.quantize.training_layers.activation import fake_quantize_rows
from gq_tvm.quantize.training_layers.quant_layers import BiasPlace, QuantLayer, refuse_export


class QuantMultiheadAttention(QuantLayer, nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with quantised projections; ``out_proj`` is a ``QuantLinear``.

    Projections may be left in float; the products inside attention always are.
    """

    replaced = nn.MultiheadAttention
    deployed = CodebookMultiheadAttention

    @classmethod
    def obstacle(cls, layer: Any) -> str | None:
        """See ``QuantLayer``."""
        if layer.bias_k is not None:
            return "MultiheadAttention with add_bias_kv is not supported"
        if layer.add_zero_attn:
            return "MultiheadAttention with add_zero_attn is not supported"
        return None

    def bias_behind(self, attribute: str) -> BiasPlace | None:
        """See ``QuantLayer``."""
        part = 0 if attribute == "in_proj_weight" else PROJECTIONS.index(attribute)
        bias: Any = self.in_proj_bias
        return None if bias is None else (bias, part * self.embed_dim)

    def deploy(self, weights: dict[str, WeightTensors]) -> None:
        """See ``QuantLayer``: projections become layers."""
        parts: list[Any]  # each WeightTensors, or a Tensor that was left in float
        if self.in_proj_weight is None:
            parts = [weights.get(name, getattr(self, name)) for name in PROJECTIONS]
        elif "in_proj_weight" in weights:
            parts = [*weights["in_proj_weight"].split_rows(3)]
        else:
            parts = [*self.in_proj_weight.chunk(3)]
        biases = [None if bias is None else bias.detach().clone() for bias in self.biases()]
        projections = [
            _projection(part, bias, self.activation)
            for part, bias in zip(parts, biases, strict=True)
        ]
        self.detach()
        become(self, CodebookMultiheadAttention)
        layer: Any = self
        layer.hold_projections(projections)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``; see ``attention.attend``."""
        refuse_export()
        options = Options(
            key_padding_mask, attn_mask, need_weights, average_attn_weights, is_causal
        )
        sizes = self.num_heads, self.batch_first
        if self.training:
            return attend(
                query, key, value, self._train, self.out_proj, options, *sizes, self.dropout
            )
        with torch.no_grad():
            return attend(query, key, value, self._deploy, self.out_proj, options, *sizes)

    def _train(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        biases = self.biases()
        alike = inputs[0] is inputs[1] and inputs[1] is inputs[2]
        names = PROJECTIONS
        if self.in_proj_weight is None:
            weights = [self.quantized(name) for name in names]
        elif alike:
            x = self._rounded(inputs[0], "in_proj_weight")
            whole = F.linear(x, self.quantized("in_proj_weight"), self.in_proj_bias)
            q, k, v = whole.chunk(3, dim=-1)
            return q, k, v
        else:
            names = ("in_proj_weight",) * 3
            weights = list(self.quantized("in_proj_weight").chunk(3))
        rows = [self._rounded(x, name) for x, name in zip(inputs, names, strict=True)]
        return _each(F.linear, rows, weights, biases)

    def _rounded(self, x: Tensor, name: str) -> Tensor:
        """Rows as training rounds them for the named weight: not for one left in float."""
        return fake_quantize_rows(x, self.activation) if name in self.quantizers else x

    def _deploy(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.in_proj_weight is None:
            operands = [self.operand(name) for name in PROJECTIONS]
        else:
            operands = torch_weight.split_rows(self.operand("in_proj_weight"), 3)

        def linear(x: Tensor, weight: torch_weight.Operand, bias: Tensor | None) -> Tensor:
            y = torch_weight.product(x, weight)
            return y if bias is None else y + bias

        return _each(linear, inputs, operands, self.biases())

    def biases(self) -> tuple[Tensor | None, ...]:
        """Those of query, key and value: f32 [E] each, or None."""
        return (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)


def _projection(weight: WeightTensors | Tensor, bias: Tensor | None, activation: str) -> nn.Linear:
    if isinstance(weight, WeightTensors):
        return CodebookLinear(weight, bias, activation)
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _each(
    linear: Callable[..., Tensor], *arguments: Sequence[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (linear(*one) for one in zip(*arguments, strict=True))
    return q, k, v
