"""Nodes that are layers: with constant weights, in modules of PyTorch's or of ours.

All that works on layers (compression, sensitivity, losses) then works on a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq)
from gq_tvm.onnx_import.lookup import Lookup
from gq_tvm.onnx_import.registry import Node
from gq_tvm.onnx_import.values import from_numpy


@dataclass(frozen=True)
class Made:
    """A layer.

    Attributes:
        module: It.
        inputs: Which of the node's inputs it is given.
        weight: Which of them its name comes from.
    """

    module: nn.Module
    inputs: tuple[int, ...]
    weight: int = 1


Maker = Callable[[Node, Sequence[Any], Any], Made | None]
_MAKERS: dict[tuple[str, str], Maker] = {}


def layer(*names: str, domain: str = "") -> Callable[[Maker], Maker]:
    """Register what makes layers of operators."""

    def register(maker: Maker) -> Maker:
        _MAKERS.update({(domain, name): maker for name in names})
        return maker

    return register


def make(node: Node, constants: Sequence[Any], bias: NDArray | None) -> Made | None:
    """The layer that a node is, None if it is none.

    Args:
        node: It.
        constants: What is known of its inputs.
        bias: What is added to each row of its result, for a MatMul.
    """
    maker = _MAKERS.get((node.domain, node.operator))
    return maker(node, constants, bias) if maker else None


def parameter(array: NDArray) -> nn.Parameter:
    """A parameter of an array."""
    return nn.Parameter(from_numpy(array))


class CodebookProduct(nn.Module):
    """``x W.T + bias`` of a weight in a codebook.

    Args:
        arrays: See `Lookup.weight`.
        bias: [N], or None.
    """

    def __init__(self, arrays: dict[str, NDArray], bias: NDArray | None = None) -> None:
        super().__init__()
        for name in ("indices", "codebook", "scale", "zero"):
            self.register_buffer(name, from_numpy(arrays[name]) if name in arrays else None)
        self.bias = None if bias is None else parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        weight = (self.indices, self.codebook, self.scale, self.zero)
        return torch.ops.gq.codebook_linear(x, *weight, self.bias, "fp32")


class CodebookRows(nn.Module):
    """Rows of a weight in a codebook.

    Args:
        arrays: See `Lookup.weight`.
    """

    indices: Tensor

    def __init__(self, arrays: dict[str, NDArray]) -> None:
        super().__init__()
        for name in ("indices", "codebook", "scale", "zero"):
            self.register_buffer(name, from_numpy(arrays[name]) if name in arrays else None)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows; negative ids count from the end."""
        weight = (self.indices, self.codebook, self.scale, self.zero)
        return torch.ops.gq.codebook_embedding(wrapped(ids, self.indices.shape[0]), *weight)


class Rows(nn.Embedding):
    """An embedding whose negative ids count from the end, as in ONNX."""

    def forward(self, input: Tensor) -> Tensor:
        """The rows."""
        return super().forward(wrapped(input, self.num_embeddings))


def wrapped(ids: Tensor, size: Any) -> Tensor:
    """Indices, the negative ones counted from the end."""
    return torch.where(ids < 0, ids + size, ids).long()


def linear(weight: NDArray | Lookup, bias: NDArray | None) -> nn.Module:
    """A product with a weight [N, K]."""
    if isinstance(weight, Lookup):
        arrays = weight.weight()
        if arrays is not None:
            return CodebookProduct(arrays, bias)
        weight = weight.dense()
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = parameter(weight)
    if bias is not None:
        made.bias = parameter(bias)
    return made


def turned(weight: NDArray | Lookup) -> NDArray | Lookup:
    """A weight [K, N] as [N, K]."""
    return weight.transposed([1, 0]) if isinstance(weight, Lookup) else weight.T


@layer("MatMul")
def _matmul(node: Node, given: Sequence[Any], bias: NDArray | None) -> Made | None:
    weight = given[1]
    if given[0] is not None or weight is None or len(weight.shape) != 2:
        return None
    if not _is_float(weight) or (bias is not None and bias.shape != weight.shape[1:]):
        return None
    return Made(linear(turned(weight), bias), (0,))


@layer("Gemm")
def _gemm(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    first, weight, bias = [*given, None][:3]
    if first is not None or weight is None or not _is_float(weight) or node.get("transA"):
        return None
    if len(node.inputs) > 2 and node.inputs[2] and not isinstance(bias, np.ndarray):
        return None
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    rows = weight if node.get("transB") else turned(weight)
    if alpha != 1.0:
        dense = rows.dense() if isinstance(rows, Lookup) else rows
        rows = (dense * np.float32(alpha)).astype(dense.dtype)
    if bias is not None:
        if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
            return None
        bias = np.broadcast_to(bias.reshape(-1), (rows.shape[0],))
        bias = bias if beta == 1.0 else (bias * np.float32(beta)).astype(bias.dtype)
    return Made(linear(rows, bias), (0,))


@layer("Gather")
def _gather(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    weight = given[0]
    if weight is None or given[1] is not None or node.get("axis", 0) not in (0, -2):
        return None
    if len(weight.shape) != 2 or not _is_float(weight):
        return None
    arrays = weight.weight() if isinstance(weight, Lookup) else None
    if arrays is not None:
        return Made(CodebookRows(arrays), (1,), 0)
    dense = weight.dense() if isinstance(weight, Lookup) else weight
    made = Rows(dense.shape[0], dense.shape[1], device="meta")
    made.weight = parameter(dense)
    return Made(made, (1,), 0)


class Padded(nn.Module):
    """A convolution behind padding that it does not have itself.

    Args:
        pads: As `functional.pad` takes them, or a function of the sizes of the input.
        inner: The convolution.
    """

    def __init__(self, pads: Callable[[Sequence[Any]], Sequence[Any]], inner: nn.Module) -> None:
        super().__init__()
        self._pads = pads
        self.conv = inner

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        return self.conv(functional.pad(x, list(self._pads(x.shape[2:]))))


_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@layer("Conv")
def _conv(node: Node, given: Sequence[Any], _: Any) -> Made | None:
    from gq_tvm.onnx_import.operators.windows import Window

    first, weight, bias = [*given, None][:3]
    if isinstance(weight, Lookup):
        weight = weight.dense()
    axes = weight.ndim - 2 if weight is not None else 0
    if first is not None or axes not in _CONV or (len(node.inputs) > 2 and bias is None):
        return None
    window = Window.of(node, weight.shape[2:])
    groups = int(node.get("group", 1))
    made = _CONV[axes](
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        window.strides,
        window.symmetric() or 0,
        window.dilations,
        groups,
        bias is not None,
        device="meta",
    )
    made.weight = parameter(weight)
    if bias is not None:
        made.bias = parameter(bias)
    if window.symmetric() is not None:
        return Made(made, (0,))
    return Made(Padded(window.pads_of, made), (0,))


def _is_float(weight: NDArray | Lookup) -> bool:
    return isinstance(weight, Lookup) or weight.dtype.name in ("float32", "float16", "float64")
