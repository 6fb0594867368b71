"""OpenVINO's CPU plugin, weights compressed by NNCF.

With ``int8`` activations its dynamic quantisation is on (by group of a row); otherwise it computes
in float. The codebook of CODEBOOK is the caller's.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import nncf
import numpy as np
import openvino
from openvino import opset13

from benchmarks.candidate import Candidate, Ready
from benchmarks.models import StreamingLSTM
from benchmarks.peers import onnx_models
from benchmarks.problems import Layer, Model

nncf.set_log_level(logging.ERROR)
_Mode = nncf.CompressWeightsMode


@dataclass(frozen=True)
class _Scheme:
    name: str
    bits: int
    mode: Any = None
    group: int | None = None  # weights a scale; None: a row
    dynamic: bool = False
    codebook: str = ""
    precision: str = "f32"

    @property
    def activation(self) -> str:
        if self.dynamic:
            return "int8 by group"
        return {"f32": "fp32", "bf16": "bf16"}[self.precision]


_SCHEMES = [
    _Scheme("fp32", 32),
    _Scheme("bf16", 16, precision="bf16"),
    _Scheme("int8", 8, _Mode.INT8_SYM, dynamic=True),
    _Scheme("int4 group 32", 4, _Mode.INT4_SYM, 32, dynamic=True),
    _Scheme("int4 group 128", 4, _Mode.INT4_SYM, 128, dynamic=True),
    _Scheme("NF4 group 64", 4, _Mode.NF4, 64, codebook="fixed"),
    _Scheme("int2 group 128", 2, _Mode.INT2_SYM, 128),
    _Scheme("CODEBOOK of 16", 4, _Mode.CODEBOOK, -1, codebook="any"),
]


def layer(problem: Layer) -> list[Candidate]:
    """One product."""

    def graph() -> openvino.Model:
        x = opset13.parameter([problem.rows, problem.inputs], np.float32, name="x")
        weight = opset13.constant(problem.weight)
        weight.set_friendly_name("weight")
        return openvino.Model([opset13.matmul(x, weight, False, True)], [x], "layer")

    return _candidates(graph, [problem.x], problem.weight.size, problem.threads)


def model(problem: Model) -> list[Candidate]:
    """The whole model, read from ONNX; LSTM layers in plain operators."""
    module = problem.module
    if isinstance(module, StreamingLSTM):
        x, h, c = problem.inputs
        inputs = [x[0], *(one for pair in zip(h, c, strict=True) for one in pair)]
        onnx_model = onnx_models.lstm_cells(module)
    else:
        inputs, onnx_model = list(problem.inputs), onnx_models.conformer(module)

    def graph() -> openvino.Model:
        return openvino.Core().read_model(onnx_model.SerializeToString())

    return _candidates(graph, inputs, problem.weights, problem.threads)


def _candidates(
    graph: Callable[[], openvino.Model], inputs: Sequence[np.ndarray], weights: int, threads: int
) -> list[Candidate]:
    return [
        Candidate(
            "OpenVINO", scheme.name, scheme.bits, scheme.activation,
            partial(_prepare, graph, scheme, inputs, weights, threads), codebook=scheme.codebook,
        )
        for scheme in _SCHEMES
    ]  # fmt: skip


def _prepare(
    graph: Callable[[], openvino.Model],
    scheme: _Scheme,
    inputs: Sequence[np.ndarray],
    weights: int,
    threads: int,
) -> Ready:
    compressed, weight_bytes = graph(), weights * scheme.bits // 8
    if scheme.mode is not None:
        options: dict[str, Any] = {}
        if scheme.group is not None:
            options = {"group_size": scheme.group, "all_layers": True}
            weight_bytes += 2 * weights // scheme.group if scheme.group > 0 else 0
        if scheme.codebook == "any":
            levels = np.tanh(np.linspace(-2, 2, 16)).astype(np.float32)
            levels /= np.abs(levels).max()
            options["advanced_parameters"] = nncf.AdvancedCompressionParameters(codebook=levels)
        elif scheme.group is not None:
            options["ratio"] = 1.0
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            compressed = nncf.compress_weights(compressed, mode=scheme.mode, **options)
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": scheme.precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(scheme.group or 128) if scheme.dynamic else "0",
    }
    request = openvino.Core().compile_model(compressed, "CPU", config).create_infer_request()
    for number, value in enumerate(inputs):
        request.set_input_tensor(number, openvino.Tensor(value, shared_memory=True))
    output = request.get_output_tensor(0)
    return Ready(request.infer, lambda: output.data, weight_bytes, keep=(request, inputs))
