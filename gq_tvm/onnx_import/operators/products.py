"""Products of tensors that are computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gq_tvm.onnx_import.registry import MICROSOFT, Node, operator


@operator("MatMul")
def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm")
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if node.get("transA") else a
    b = b.T if node.get("transB") else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    y = torch.matmul(a, b)
    y = y if alpha == 1.0 else y * alpha
    if c is None:
        return y
    return y + (c if beta == 1.0 else c * beta)


@operator("FusedMatMul", domain=MICROSOFT)
def _fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    pair = []
    for one, letter in ((a, "A"), (b, "B")):
        if node.get(f"transBatch{letter}"):
            one = one.movedim(0, -2)
        pair.append(one.transpose(-1, -2) if node.get(f"trans{letter}") else one)
    y, alpha = torch.matmul(*pair), node.get("alpha", 1.0)
    return y if alpha == 1.0 else y * alpha


@operator("Einsum")
def _einsum(node: Node, *given: Tensor) -> Tensor:
    return torch.einsum(node.get("equation").replace(" ", ""), *given)


@operator("Det")
def _det(node: Node, x: Tensor) -> Any:
    return torch.linalg.det(x)
