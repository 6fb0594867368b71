"""The layers of a deployed model: indices and codebooks in buffers, no float weight.

Each stands where a PyTorch layer stood and takes the same arguments; its forward calls the
operators of ``ops.torch_ops``, which ``torch.export`` keeps in the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gq_tvm.ops import checks, torch_ops  # noqa: F401  (torch_ops registers torch.ops.gq)


@dataclass(frozen=True)
class CodebookWeight:
    """A weight in a codebook: indices u8 [N, ...] into codebook f32 [1 or N, 2^bits]."""

    indices: Tensor
    codebook: Tensor
    bits: int

    def check(self, layer: str, ndim: int) -> None:
        """Refuse shapes, dtypes and indices that no operator takes."""
        checks.check_weight(layer, self.indices, self.codebook, self.bits, ndim)
        if self.indices.numel():
            checks.check_largest_index(layer, int(self.indices.max()), self.bits)

    def split_rows(self, parts: int) -> list[CodebookWeight]:
        """``parts`` weights of N / parts rows each."""
        indices = [one.clone() for one in self.indices.chunk(parts)]
        shared = self.codebook.shape[0] == 1
        codebooks = [self.codebook] * parts if shared else self.codebook.chunk(parts)
        return [
            CodebookWeight(i, c if shared else c.clone(), self.bits)
            for i, c in zip(indices, codebooks, strict=True)
        ]


class CodebookLayer(nn.Module):
    """Base of the codebook layers: where their buffers are and what their weights are called."""

    activation = "fp32"

    def _register(self, suffix: str, weight: CodebookWeight, ndim: int = 2) -> None:
        weight.check(type(self).__name__, ndim)
        self.register_buffer(f"indices{suffix}", weight.indices)
        self.register_buffer(f"codebook{suffix}", weight.codebook)

    def codebook_weights(self) -> Iterator[tuple[str, CodebookWeight]]:
        """Each weight with the name it had in the PyTorch layer."""
        raise NotImplementedError


class CodebookLinear(CodebookLayer):
    """``nn.Linear`` with its weight in a codebook: x f32 [..., K] -> f32 [..., N].

    Args:
        weight: indices [N, K].
        bias: f32 [N] or None.
        activation: ``"fp32"``, or ``"int8"``, ``"int2"`` or ``"int1"`` (dynamic, per row).

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    indices: Tensor
    codebook: Tensor
    bias: Tensor | None

    def __init__(self, weight: CodebookWeight, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        checks.check_activation(type(self).__name__, activation)
        self._register("", weight)
        self.register_buffer("bias", bias)
        self.out_features, self.in_features = weight.indices.shape
        self.bits = weight.bits
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + bias``."""
        return torch.ops.gq.codebook_linear(
            x, self.indices, self.codebook, self.bias, self.bits, self.activation
        )

    def codebook_weights(self) -> Iterator[tuple[str, CodebookWeight]]:
        """The one weight."""
        yield "weight", CodebookWeight(self.indices, self.codebook, self.bits)

    def extra_repr(self) -> str:
        """Sizes, bits and activation, for ``print``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits={self.bits}, activation={self.activation}"
        )


class CodebookConv1d(CodebookLayer):
    """``nn.Conv1d`` with its weight in a codebook: x f32 [B, C, T] or [C, T].

    Args:
        weight: indices [N, C / groups, k].
        bias: f32 [N] or None.
        activation: as in ``CodebookLinear``; ``"fp32"`` with more than one group.
        stride: frames between outputs.
        padding: zero frames at either end.
        dilation: frames between taps.
        groups: as in ``nn.Conv1d``.
        pad: (left, right, mode of ``F.pad``), applied first, for what ``padding`` cannot say.

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    indices: Tensor
    codebook: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: CodebookWeight,
        bias: Tensor | None,
        activation: str,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        pad: tuple[int, int, str] | None = None,
    ) -> None:
        super().__init__()
        checks.check_activation(type(self).__name__, activation)
        self._register("", weight, ndim=3)
        self.register_buffer("bias", bias)
        self.bits = weight.bits
        self.activation = activation
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """The convolution: [B, N, T'] or [N, T']."""
        if self.pad is not None:
            left, right, mode = self.pad
            x = F.pad(x, (left, right), mode)
        batched = x if x.dim() == 3 else x.unsqueeze(0)
        y = torch.ops.gq.codebook_conv1d(
            batched, self.indices, self.codebook, self.bias, self.bits, self.stride,
            self.padding, self.dilation, self.groups, self.activation,
        )  # fmt: skip
        return y if x.dim() == 3 else y.squeeze(0)

    def codebook_weights(self) -> Iterator[tuple[str, CodebookWeight]]:
        """The one weight."""
        yield "weight", CodebookWeight(self.indices, self.codebook, self.bits)

    def extra_repr(self) -> str:
        """Sizes, bits and activation, for ``print``."""
        rows, channels, taps = self.indices.shape
        return (
            f"{channels * self.groups}, {rows}, kernel_size={taps}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bits={self.bits}, activation={self.activation}"
        )


class CodebookEmbedding(CodebookLayer):
    """``nn.Embedding`` with its rows in a codebook: ids i64 or i32 [...] -> f32 [..., D].

    Args:
        weight: indices [V, D].
        padding_idx: the id whose row is zero, or None.

    Raises:
        Error: the weight's shapes, dtypes or indices are wrong.
    """

    indices: Tensor
    codebook: Tensor

    def __init__(self, weight: CodebookWeight, padding_idx: int | None = None) -> None:
        super().__init__()
        self._register("", weight)
        self.num_embeddings, self.embedding_dim = weight.indices.shape
        self.bits = weight.bits
        self.padding_idx = padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        """The rows named by ``ids``."""
        ids = ids.long()  # nn.Embedding takes int32 too
        rows = torch.ops.gq.codebook_embedding(ids, self.indices, self.codebook, self.bits)
        return zero_padding(rows, ids, self.padding_idx)

    def codebook_weights(self) -> Iterator[tuple[str, CodebookWeight]]:
        """The one weight."""
        yield "weight", CodebookWeight(self.indices, self.codebook, self.bits)

    def extra_repr(self) -> str:
        """Sizes and bits, for ``print``."""
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits}"


def zero_padding(rows: Tensor, ids: Tensor, padding_idx: int | None) -> Tensor:
    """Rows f32 [..., D] of an embedding, zero where ids [...] say padding.

    A codebook need not hold a zero, so the padding row is made one here.
    """
    if padding_idx is None:
        return rows
    return rows.masked_fill((ids == padding_idx).unsqueeze(-1), 0.0)
