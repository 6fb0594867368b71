"""PyTorch's own CPU kernels."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.candidate import Candidate, Ready
from benchmarks.problems import Layer, Model

_GROUP = 128


def layer(problem: Layer) -> list[Candidate]:
    """One linear layer."""
    x, weight = torch.from_numpy(problem.x), torch.from_numpy(problem.weight)
    module = nn.Linear(problem.inputs, problem.outputs, bias=False)
    with torch.no_grad():
        module.weight.copy_(weight)

    def ours(name: str, bits: int, activation: str, make: Callable[[], tuple[Any, int]]) -> Any:
        return Candidate("PyTorch", name, bits, activation, partial(_prepare, make, problem))

    def packed(dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
        own = weight.to(dtype)
        reordered = torch.ops.mkldnn._reorder_linear_weight(own, problem.rows)
        product = torch.ops.mkldnn._linear_pointwise
        return lambda: product(x.to(dtype), reordered, None, "none", [], "").float(), own.nbytes

    def dynamic() -> tuple[Callable[[], Tensor], int]:
        quantized = _dynamic_int8(nn.Sequential(module))[0]
        return lambda: quantized(x), weight.numel()

    def int4() -> tuple[Callable[[], Tensor], int]:
        codes, scales = _int4(weight)
        product = torch._weight_int4pack_mm_for_cpu
        size = weight.numel() // 2 + scales.nbytes
        return lambda: product(x.bfloat16(), codes, _GROUP, scales).float(), size

    return [
        ours("fp32", 32, "fp32", lambda: packed(torch.float32)),
        ours("bf16", 16, "bf16", lambda: packed(torch.bfloat16)),
        ours("int8 dynamic", 8, "uint8 by tensor", dynamic),
        ours(f"int4 group {_GROUP}", 4, "bf16", int4),
    ]


def model(problem: Model) -> list[Candidate]:
    """The whole model, eagerly."""
    inputs = tuple(map(torch.from_numpy, problem.inputs))

    def floats() -> tuple[Callable[[], Tensor], int]:
        return lambda: problem.module(*inputs)[0], 4 * problem.weights

    def bfloat16() -> tuple[Callable[[], Tensor], int]:
        module = copy.deepcopy(problem.module).bfloat16()
        narrow = tuple(one.bfloat16() for one in inputs)
        return lambda: module(*narrow)[0].float(), 2 * problem.weights

    def dynamic() -> tuple[Callable[[], Tensor], int]:
        quantized = _dynamic_int8(problem.module)
        return lambda: quantized(*inputs)[0], problem.weights

    return [
        Candidate("PyTorch", "fp32", 32, "fp32", partial(_prepare, floats, problem)),
        Candidate("PyTorch", "bf16", 16, "bf16", partial(_prepare, bfloat16, problem)),
        Candidate(
            "PyTorch", "int8 dynamic", 8, "uint8 by tensor", partial(_prepare, dynamic, problem)
        ),
    ]


def _prepare(make: Callable[[], tuple[Any, int]], problem: Layer | Model) -> Ready:
    torch.set_num_threads(problem.threads)
    torch.set_grad_enabled(False)
    run, weight_bytes = make()

    def output() -> np.ndarray:
        return run().numpy()

    return Ready(run, output, weight_bytes)


def _dynamic_int8(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of a package of its own
        return torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(module), {nn.Linear, nn.LSTM}, dtype=torch.qint8
        )


def _int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and (scale, zero) pairs as PyTorch's 4-bit kernel takes them."""
    outputs, inputs = weight.shape
    groups = weight.reshape(-1, _GROUP)
    least = groups.amin(1, keepdim=True)
    scale = ((groups.amax(1, keepdim=True) - least) / 15).clamp(min=1e-6)
    codes = ((groups - least) / scale).round().clamp(0, 15).int().reshape(outputs, inputs)
    pairs = torch.stack([scale.reshape(outputs, -1), (least + 8 * scale).reshape(outputs, -1)], -1)
    packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    return packed, pairs.transpose(0, 1).contiguous().bfloat16()
