"""The layers of a model in training: PyTorch's own, with quantisers before their weights.

``prepare`` turns a layer into one of these in place, so parameters, hooks and references to it
stay. In ``train`` mode the forward is differentiable, with activations rounded straight through.
In ``eval`` mode it computes what the converted model will, integers and all, without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.ops import torch_ops, torch_weight
from gq_tvm.ops.checks import FEWEST_OF_A_GROUP
from gq_tvm.ops.torch_weight import WeightTensors
from gq_tvm.quantize.deployed.codebook_layers import (
    CodebookConv1d,
    CodebookConv2d,
    CodebookEmbedding,
    CodebookEmbeddingBag,
    CodebookLayer,
    CodebookLinear,
    symmetric_padding,
    zero_padding,
)
from gq_tvm.quantize.drop_in.bags import bags
from gq_tvm.quantize.drop_in.replacement import Replacement, become, scaled_input
from gq_tvm.quantize.quantisers.quantizer import Quantizer
from gq_tvm.quantize.training_layers.activation import fake_quantize_rows

#: A bias, and where in it begins what is added to a product's outputs.
BiasPlace = tuple[nn.Parameter, int]


class QuantLayer(Replacement):
    """What the quantised layers share: their quantisers, and weights expanded once for eval.

    A kind of layer is a class of these, one of ``codebook_layers`` and an entry in
    ``drop_in.supported.KINDS``: what differs between kinds they say themselves.
    """

    #: What it becomes when it is deployed.
    deployed: ClassVar[type[CodebookLayer]]
    quantizers: nn.ModuleDict
    _operands: dict[str, tuple[Any, torch_weight.Operand]]

    @classmethod
    def obstacle(cls, layer: Any) -> str | None:
        """Why a layer of PyTorch's with its options cannot become one of these."""
        return None

    @classmethod
    def meets_floats(cls, layer: Any) -> bool:
        """Whether a layer of PyTorch's always has fp32 activations."""
        return False

    def scales_inputs_of(self, attribute: str) -> bool:
        """Whether factors can be put in front of a weight; see ``drop_in.replacement``."""
        return False

    def bias_behind(self, attribute: str) -> BiasPlace | None:
        """The bias that is added behind the product by a weight; None where there is none."""
        return None

    def deployed_biases(self) -> dict[str, Tensor | None]:
        """The biases of the deployed layer, by name."""
        return {}

    def deploy(self, weights: dict[str, WeightTensors]) -> None:
        """Become the layer that is deployed, in place, with weights by attribute."""
        biases = {n: None if b is None else b.detach() for n, b in self.deployed_biases().items()}
        activation = {name: self.activation_of(name) for name in weights}
        self.detach()
        become(self, self.deployed)
        layer: Any = self
        layer.hold(weights, biases, activation)

    def attach(self, quantizers: dict[str, Quantizer], activation: str | Mapping[str, str]) -> None:
        """Put a quantiser before each named weight; for activations see ``meet``."""
        self.quantizers = nn.ModuleDict(quantizers)
        self.meet(activation)
        self._operands = {}

    def detach(self) -> None:
        """Take away what ``attach`` gave; the weights stay."""
        del self.quantizers, self.activation, self._operands
        vars(self).pop("_activations", None)

    def train(self, mode: bool = True) -> QuantLayer:
        """As ``nn.Module.train``; forgets the expanded weights."""
        self._operands.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        """As the layer replaced, with the activation, for ``print``."""
        own = super().extra_repr()
        return ", ".join(filter(None, (own, self.shown_activation())))

    def quantizer(self, name: str) -> Quantizer:
        """The quantiser before the named weight."""
        return cast(Quantizer, self.quantizers[name])

    def quantized(self, name: str) -> Tensor:
        """The named weight as training sees it; one left in float as it is."""
        weight = getattr(self, name)
        return self.quantizer(name)(weight) if name in self.quantizers else weight

    def hardened(self, name: str) -> torch_weight.WeightTensors:
        """The named weight in its codebook."""
        return self.quantizer(name).harden(getattr(self, name))

    def operand(self, name: str) -> torch_weight.Operand:
        """The named weight as deployment sees it, kept until a tensor behind it changes.

        One left in float as it is.
        """
        weight = getattr(self, name)
        if name not in self.quantizers:
            return weight
        quantizer = self.quantizer(name)
        tensors = [weight, *quantizer.parameters(), *quantizer.buffers()]
        key = [(t.data_ptr(), t._version) for t in tensors]
        kept = self._operands.get(name)
        if kept is None or kept[0] != key:
            kept = key, quantizer.operand(weight, self.activation_of(name))
            self._operands[name] = kept
        return kept[1]


def quantised_weights(model: nn.Module) -> Iterator[tuple[str, QuantLayer, str]]:
    """Each weight of a prepared model with a quantiser before it: its name, layer and attribute.

    One that layers share comes once for each of them.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, QuantLayer):
            for attribute in layer.quantizers:
                yield f"{name}.{attribute}" if name else attribute, layer, attribute


@torch.compiler.assume_constant_result  # so that Dynamo runs it instead of tracing it
def _refuse_export() -> bool:
    raise Error(
        "torch.export: the model is prepared; call quantize.convert(model) before exporting."
    )


def refuse_export() -> None:
    """Refuse to be exported: what is compiled is a converted model."""
    if torch.compiler.is_exporting():
        _refuse_export()


class QuantProduct(QuantLayer):
    """What a linear layer and convolutions share: one weight, perhaps a bias behind it."""

    def scales_inputs_of(self, attribute: str) -> bool:
        """See ``QuantLayer``."""
        return True

    def bias_behind(self, attribute: str) -> BiasPlace | None:
        """See ``QuantLayer``."""
        bias: Any = self.bias
        return None if bias is None else (bias, 0)

    def deployed_biases(self) -> dict[str, Tensor | None]:
        """See ``QuantLayer``."""
        return {"bias": cast("Tensor | None", self.bias)}


class QuantLinear(QuantProduct, nn.Linear):
    """``nn.Linear`` in training."""

    replaced = nn.Linear
    deployed = CodebookLinear

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``: f32 [..., K] -> f32 [..., N]."""
        refuse_export()
        input = scaled_input(self, input)
        if not self.training:
            with torch.no_grad():
                y = torch_weight.product(input, self.operand("weight"))
                return y if self.bias is None else y + self.bias
        x = fake_quantize_rows(input, self.activation)
        return F.linear(x, self.quantized("weight"), self.bias)


class QuantConvolution(QuantProduct):
    """A convolution along one axis or two, in training."""

    @classmethod
    def meets_floats(cls, layer: Any) -> bool:
        """See ``QuantLayer``: those of few outputs a group do, which no vector kernel computes."""
        return bool(layer.groups > 1 and layer.out_channels < FEWEST_OF_A_GROUP * layer.groups)

    def scales_inputs_of(self, attribute: str) -> bool:
        """See ``QuantLayer``; a factor would be of all groups."""
        conv: Any = self
        return bool(conv.groups == 1)

    def forward(self, input: Tensor) -> Tensor:
        """As PyTorch's: f32 [B, C, ...] or [C, ...] -> f32 [B, N, ...] or [N, ...]."""
        refuse_export()
        input = scaled_input(self, input)
        padding, pad = symmetric_padding(self)
        conv: Any = self  # with the attributes of PyTorch's
        taps, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
        batched = input.dim() == 2 + len(taps)
        x = input if batched else input.unsqueeze(0)
        if pad is not None:
            x = F.pad(x, *pad)
        if not self.training:
            with torch.no_grad():
                weight = self.operand("weight")
                y = torch_ops.convolve(
                    x, weight, conv.bias, taps, stride, padding, dilation, conv.groups
                )
        elif self.activation != "fp32":
            rows = torch_ops.unfold(x, taps, stride, padding, dilation)
            y = _by_groups(rows, self.quantized("weight"), conv.groups, self.activation)
            y = (y if conv.bias is None else y + conv.bias).movedim(-1, 1)
        else:
            held = self.quantized("weight")
            y = torch_ops.convolve(x, held, conv.bias, taps, stride, padding, dilation, conv.groups)
        return y if batched else y.squeeze(0)


def _by_groups(rows: Tensor, weight: Tensor, groups: int, activation: str) -> Tensor:
    """Products of what each group reads, f32 [..., groups * K], with its weights [N, ...]."""
    parts = rows.unflatten(-1, (groups, -1)).unbind(-2)
    each = zip(parts, weight.flatten(1).chunk(groups), strict=True)
    return torch.cat(
        [F.linear(fake_quantize_rows(one, activation), part) for one, part in each], -1
    )


class QuantConv1d(QuantConvolution, nn.Conv1d):
    """``nn.Conv1d`` in training."""

    replaced = nn.Conv1d
    deployed = CodebookConv1d


class QuantConv2d(QuantConvolution, nn.Conv2d):
    """``nn.Conv2d`` in training."""

    replaced = nn.Conv2d
    deployed = CodebookConv2d

    @classmethod
    def obstacle(cls, layer: Any) -> str | None:
        """See ``QuantLayer``."""
        return "a Conv2d in groups is not supported" if layer.groups > 1 else None


class QuantLookUp(QuantLayer):
    """What look-ups of rows share."""

    @classmethod
    def obstacle(cls, layer: Any) -> str | None:
        """See ``QuantLayer``."""
        kind = cls.replaced.__name__
        if layer.max_norm is not None:
            return f"an {kind} with max_norm rewrites its weight"
        if layer.sparse or layer.scale_grad_by_freq:
            return f"an {kind} with sparse or scale_grad_by_freq is not supported"
        return None

    @classmethod
    def meets_floats(cls, layer: Any) -> bool:
        """See ``QuantLayer``: there is no product."""
        return True

    def _rows(self, ids: Tensor) -> Tensor:
        """Rows as they are in training, or as they will be deployed: i64 [...] -> f32 [..., D]."""
        if self.training:
            return F.embedding(ids, self.quantized("weight"))
        with torch.no_grad():
            return F.embedding(ids, cast(Tensor, self.operand("weight")))


class QuantEmbedding(QuantLookUp, nn.Embedding):
    """``nn.Embedding`` in training; the row of ``padding_idx`` counts as zero."""

    replaced = nn.Embedding
    deployed = CodebookEmbedding

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Embedding``: i64 [...] -> f32 [..., D]."""
        refuse_export()
        return zero_padding(self._rows(input), input, self.padding_idx)


class QuantEmbeddingBag(QuantLookUp, nn.EmbeddingBag):
    """``nn.EmbeddingBag`` in training."""

    replaced = nn.EmbeddingBag
    deployed = CodebookEmbeddingBag

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """As ``nn.EmbeddingBag``; see ``drop_in.bags``."""
        refuse_export()
        if self.training:
            return bags(self, self._rows, input, offsets, per_sample_weights)
        with torch.no_grad():
            return bags(self, self._rows, input, offsets, per_sample_weights)
