"""The layers of a deployed model: indices and codebooks in buffers, no float weight.

Each stands where a PyTorch layer stood, is an instance of its class with all its attributes and
takes the same arguments; its forward calls the operators of ``ops.torch_ops``, which
``torch.export`` keeps in the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq)
from gq_tvm.errors import Error
from gq_tvm.ops import checks
from gq_tvm.ops.torch_weight import AnyWeight, WeightTensors, expand
from gq_tvm.ops.weight import Weight
from gq_tvm.quantize.drop_in.bags import bags
from gq_tvm.quantize.drop_in.replacement import Replacement, factors_of, scaled_input


def looked_up(name: str) -> Any:
    """A property of a codebook layer: a weight as floats, looked up whenever it is asked for.

    Code that reads the weight of a layer finds it so. Multiplied by in ``F.linear`` it is compiled
    as a codebook layer with float activations. A weight left in float is found as it is.
    """

    def value(layer: Any) -> Tensor:
        left = layer._parameters.get(name)
        if left is not None:
            return left
        weight = expand(layer.codebook_weight(name))
        # As PyTorch's layer would have it, with the factors of its inputs.
        return scaled_input(layer, weight, name) if factors_of(name) else weight

    return property(value)


class CodebookLayer(Replacement):
    """Base of the codebook layers: buffers in the place of parameters.

    A weight is the buffers ``indices``, ``codebook``, ``weight_scale``, ``weight_zero`` (None where
    it has no zero points), ``outlier_positions`` and ``outlier_values`` (None where it has no
    outliers); of a recurrent layer, with the endings of the weight's name.
    """

    _axes = 2

    def hold(
        self,
        weights: Mapping[str, WeightTensors],
        biases: Mapping[str, Tensor | None],
        activation: str | Mapping[str, str],
    ) -> None:
        """Take codebooks in the place of the float weights, and biases as buffers.

        Raises:
            Error: the shapes, dtypes or indices of a weight are wrong.
        """
        self.meet(activation)
        for name in weights:
            checks.check_activation(type(self).__name__, self.activation_of(name))
        for name, weight in weights.items():
            weight.check(type(self).__name__, self._axes)
            self._parameters.pop(name, None)
            for buffer, array in zip(buffers_of(name), weight, strict=True):
                if array is None:  # no buffer: torch.export counts those of None with the others
                    setattr(self, buffer, None)
                else:
                    self.register_buffer(buffer, array)
        for name, bias in biases.items():
            self._parameters.pop(name, None)
            self.register_buffer(name, bias)
        self._settle()

    def _settle(self) -> None:
        """Note what a kind of layer derives from what it holds."""

    def weight_names(self) -> list[str]:
        """What its weights were called in the PyTorch layer."""
        raise NotImplementedError

    def codebook_weight(self, name: str) -> WeightTensors:
        """The weight of that name."""
        # A layer that was pickled before there were outliers lacks these attributes.
        arrays: list[Any] = [getattr(self, buffer, None) for buffer in buffers_of(name)]
        return WeightTensors(*arrays)

    def codebook_weights(self) -> Iterator[tuple[str, WeightTensors]]:
        """Each weight with the name it had in the PyTorch layer."""
        for name in self.weight_names():
            yield name, self.codebook_weight(name)

    def reset_parameters(self) -> None:
        """Refuse: there is nothing to start afresh from."""
        raise Error(f"{type(self).__name__}: the layer is converted; reset those of a float model.")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As PyTorch's; of checkpoints made before weights had scales, too."""
        for name in self.weight_names():
            indices, codebook, scale, *_ = (prefix + buffer for buffer in buffers_of(name))
            if scale not in state_dict and {indices, codebook} <= state_dict.keys():
                tables = state_dict[codebook].cpu().numpy()
                weight = Weight.from_tables(
                    state_dict[indices].cpu().numpy(), tables, self.activation_of(name)
                )
                held = WeightTensors.of(weight)
                device = state_dict[codebook].device
                state_dict[codebook], state_dict[scale] = held.codebook.to(device), held.scale
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As ``nn.Module._apply``, but for other dtypes."""
        if fn(torch.empty(0)).dtype != torch.float32:
            raise Error(
                f"{type(self).__name__}: a converted layer computes in float32; leave out half(), "
                "bfloat16() and double(), its weights are indices of a few bits already."
            )
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """As the layer replaced, with bits and activation, for ``print``."""
        bits = [weight.bits for _, weight in self.codebook_weights()]
        shown = bits[0] if len(set(bits)) == 1 else bits
        return f"{super().extra_repr()}, bits={shown}, {self.shown_activation()}"


def buffers_of(name: str) -> list[str]:
    """The buffers that hold the weight of that name, in the order of ``WeightTensors``."""
    suffix = name.removeprefix("weight")
    coded = ("indices", "codebook", "weight_scale", "weight_zero")
    return [f"{one}{suffix}" for one in (*coded, "outlier_positions", "outlier_values")]


class OneWeight(CodebookLayer):
    """Base of those with one weight."""

    indices: Tensor
    codebook: Tensor
    weight_scale: Tensor
    weight_zero: Tensor | None
    outlier_positions: Tensor | None
    outlier_values: Tensor | None
    weight = looked_up("weight")

    def weight_names(self) -> list[str]:
        """The one weight."""
        return ["weight"]


class CodebookLinear(OneWeight, nn.Linear):
    """``nn.Linear`` with its weight in a codebook: f32 [..., K] -> f32 [..., N].

    Args:
        weight: [N, K].
        bias: f32 [N] or None.
        activation: ``"fp32"``, or ``"int8"``, ``"int2"`` or ``"int1"`` (dynamic, per row).

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    replaced = nn.Linear

    def __init__(self, weight: AnyWeight, bias: Tensor | None, activation: str) -> None:
        rows, columns = weight.indices.shape
        vars(self).update(vars(nn.Linear(columns, rows, device="meta")))
        self.hold({"weight": WeightTensors.of(weight)}, {"bias": bias}, activation)

    def forward(self, input: Tensor) -> Tensor:
        """``input W^T + bias``."""
        weight = self.codebook_weight("weight")
        return torch.ops.gq.codebook_linear(
            scaled_input(self, input), *weight.coded, self.bias, self.activation, *weight.outliers
        )


class CodebookConvolution(OneWeight):
    """What the convolutions share: how they are made, and their padding."""

    _padded: tuple[list[int], tuple[list[int], str] | None]

    def __init__(
        self,
        weight: AnyWeight,
        bias: Tensor | None,
        activation: str,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
    ) -> None:
        rows, channels, *taps = weight.indices.shape
        kind: Any = self.replaced
        like = kind(
            channels * groups, rows, taps, stride, padding, dilation, groups,
            padding_mode=padding_mode, device="meta",
        )  # fmt: skip
        vars(self).update(vars(like))
        self.hold({"weight": WeightTensors.of(weight)}, {"bias": bias}, activation)

    def _settle(self) -> None:
        self._padded = symmetric_padding(self)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution: [B, N, ...] or [N, ...]."""
        padding, pad = self._padded
        input = scaled_input(self, input)
        batched = input.dim() == self._axes
        x = input if batched else input.unsqueeze(0)
        if pad is not None:
            x = F.pad(x, *pad)
        y = self._convolved(x, padding)
        return y if batched else y.squeeze(0)

    def _convolved(self, x: Tensor, padding: list[int]) -> Tensor:
        """The convolution with zeros at both ends."""
        raise NotImplementedError


class CodebookConv1d(CodebookConvolution, nn.Conv1d):
    """``nn.Conv1d`` with its weight in a codebook: f32 [B, C, T] or [C, T].

    Args:
        weight: indices [N, C / groups, k].
        bias: f32 [N] or None.
        activation: as in ``CodebookLinear``; ``"fp32"`` with more than one group.
        stride: frames between outputs.
        padding: frames at either end, ``"same"`` or ``"valid"``.
        dilation: frames between taps.
        groups: as in ``nn.Conv1d``.
        padding_mode: as in ``nn.Conv1d``.

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    replaced = nn.Conv1d
    _axes = 3

    def _convolved(self, x: Tensor, padding: list[int]) -> Tensor:
        weight = self.codebook_weight("weight")
        return torch.ops.gq.codebook_conv1d(
            x, *weight.coded, self.bias, self.stride[0], padding[0], self.dilation[0], self.groups,
            self.activation, *weight.outliers,
        )  # fmt: skip


class CodebookConv2d(CodebookConvolution, nn.Conv2d):
    """``nn.Conv2d`` in one group with its weight in a codebook: f32 [B, C, H, W] or [C, H, W].

    Args:
        weight: indices [N, C, h, w].
        bias: f32 [N] or None.
        activation: as in ``CodebookLinear``.
        stride: as in ``nn.Conv2d``, like what follows.
        padding: the same.
        dilation: the same.
        groups: 1.
        padding_mode: as in ``nn.Conv2d``.

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    replaced = nn.Conv2d
    _axes = 4

    def _convolved(self, x: Tensor, padding: list[int]) -> Tensor:
        weight = self.codebook_weight("weight")
        return torch.ops.gq.codebook_conv2d(
            x, *weight.coded, self.bias, self.stride, padding, self.dilation,
            self.activation, *weight.outliers,
        )  # fmt: skip


def symmetric_padding(conv: Any) -> tuple[list[int], tuple[list[int], str] | None]:
    """Zeros at both ends of each axis, and (sizes, mode) of ``F.pad`` for what that cannot say."""
    sizes = list(conv._reversed_padding_repeated_twice)
    if conv.padding_mode == "zeros" and sizes[::2] == sizes[1::2]:
        return sizes[::-2], None
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return [0] * (len(sizes) // 2), (sizes, mode)


class CodebookEmbedding(OneWeight, nn.Embedding):
    """``nn.Embedding`` with its rows in a codebook: ids i64 or i32 [...] -> f32 [..., D].

    Args:
        weight: [V, D].
        padding_idx: the id whose row is zero, or None; in ``weight`` the row is what the codebook
            has nearest to zero.

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    replaced = nn.Embedding

    def __init__(self, weight: AnyWeight, padding_idx: int | None = None) -> None:
        rows, columns = weight.indices.shape
        vars(self).update(vars(nn.Embedding(rows, columns, padding_idx, device="meta")))
        self.hold({"weight": WeightTensors.of(weight)}, {}, "fp32")

    def forward(self, input: Tensor) -> Tensor:
        """The rows named by the ids."""
        ids = input.long()  # nn.Embedding takes int32 too
        rows = torch.ops.gq.codebook_embedding(ids, *self.codebook_weight("weight"))
        return zero_padding(rows, ids, self.padding_idx)


class CodebookEmbeddingBag(OneWeight, nn.EmbeddingBag):
    """``nn.EmbeddingBag`` with its rows in a codebook; see ``drop_in.bags``.

    Args:
        weight: [V, D].
        options: of ``nn.EmbeddingBag``, such as ``mode``.

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    replaced = nn.EmbeddingBag

    def __init__(self, weight: AnyWeight, **options: Any) -> None:
        rows, columns = weight.indices.shape
        vars(self).update(vars(nn.EmbeddingBag(rows, columns, **options, device="meta")))
        self.hold({"weight": WeightTensors.of(weight)}, {}, "fp32")

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """The bags of the rows named by the ids."""

        def rows(ids: Tensor) -> Tensor:
            return torch.ops.gq.codebook_embedding(ids, *self.codebook_weight("weight"))

        return bags(self, rows, input, offsets, per_sample_weights)


def zero_padding(rows: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
    """Rows f32 [..., D] of an embedding, zero where ids [...] say padding.

    A codebook need not hold a zero, so the padding row is made one here.
    """
    if padding_idx is None:
        return rows
    return rows.masked_fill((ids == padding_idx).unsqueeze(-1), 0.0)
