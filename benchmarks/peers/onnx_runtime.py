"""ONNX Runtime's CPU provider, inputs and outputs bound.

MatMulNBits takes weights of n bits with a scale a block of a row; at accuracy level 4, used here,
activations become int8 by block. ``tables`` is its opt-in kernel with tables of partial sums.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.candidate import Candidate, Ready
from benchmarks.models import Conformer, StreamingLSTM
from benchmarks.peers import onnx_models
from benchmarks.problems import Layer, Model

_TABLES = {"mlas.use_lut_gemm": "1"}

# A graph and the bytes of its weights.
Made = Callable[[], tuple[onnx.ModelProto, int]]


def layer(problem: Layer) -> list[Candidate]:
    """One product, in each way ONNX Runtime has for it."""
    plain = onnx_models.linear(problem.weight, problem.rows)
    dynamic = onnx_models.dynamic_int8(problem.weight, problem.rows)
    return [
        *_candidates(plain, "", [problem.x], problem.threads),
        _candidate("int8 dynamic", 8, lambda: (dynamic, problem.weight.size), [problem.x], problem),
    ]


def model(problem: Model) -> list[Candidate]:
    """The whole model; for an LSTM both the operator and plain operators in its place."""
    module = problem.module
    if isinstance(module, StreamingLSTM):
        x, h, c = problem.inputs
        states = [one for pair in zip(h, c, strict=True) for one in pair]
        wide = [x, *(one[None] for one in states)]
        operator = onnx_models.lstm_operator(module)
        cells = onnx_models.lstm_cells(module)
        return [
            *_float_and_dynamic(operator, " LSTM operator", wide, problem),
            *_candidates(cells, "", [x[0], *states], problem.threads),
        ]
    assert isinstance(module, Conformer)
    graph = onnx_models.conformer(module)
    return [
        *_candidates(graph, "", problem.inputs, problem.threads),
        _float_and_dynamic(graph, "", problem.inputs, problem)[1],
    ]


def _float_and_dynamic(
    graph: onnx.ModelProto, suffix: str, inputs: Sequence[np.ndarray], problem: Model
) -> list[Candidate]:
    return [
        _candidate(f"fp32{suffix}", 32, lambda: (graph, 4 * problem.weights), inputs, problem),
        _candidate(
            f"int8 dynamic{suffix}", 8, lambda: (_quantized(graph), problem.weights), inputs,
            problem,
        ),
    ]  # fmt: skip


def _candidates(
    graph: onnx.ModelProto, suffix: str, inputs: Sequence[np.ndarray], threads: int
) -> list[Candidate]:
    """Float, and MatMulNBits of each kind."""

    def floats() -> tuple[onnx.ModelProto, int]:
        return graph, sum(weight.nbytes for weight in onnx_models.weights(graph).values())

    def add(name: str, bits: int, made: Made, config: dict[str, str]) -> Candidate:
        return Candidate(
            "ONNX Runtime", name + suffix, bits, "fp32" if bits == 32 else "int8",
            partial(_prepare, made, inputs, threads, config),
        )  # fmt: skip

    found = [add("fp32", 32, floats, {})]
    for bits in (8, 4, 2):
        for block in (32, 128):
            made = partial(onnx_models.replace_products, graph, bits, block)
            name = f"MatMulNBits {bits} block {block}"
            found.append(add(name, bits, made, {}))
            if bits == 2:
                found.append(add(f"{name} tables", bits, made, _TABLES))
    return found


def _candidate(
    name: str, bits: int, made: Made, inputs: Sequence[np.ndarray], problem: Layer | Model
) -> Candidate:
    return Candidate(
        "ONNX Runtime", name, bits, "fp32" if bits == 32 else "uint8 by tensor",
        partial(_prepare, made, inputs, problem.threads, {}),
    )  # fmt: skip


def _quantized(graph: onnx.ModelProto) -> onnx.ModelProto:
    """What onnxruntime.quantization makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, before)
        quantize_dynamic(
            before, after, weight_type=QuantType.QInt8, per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "LSTM"],
        )  # fmt: skip
        return onnx.load(after)


def _prepare(
    made: Made, inputs: Sequence[np.ndarray], threads: int, config: dict[str, str]
) -> Ready:
    graph, weight_bytes = made()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    for name, setting in config.items():
        options.add_session_config_entry(name, setting)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    held: list[Any] = [session, binding]
    for info, value in zip(session.get_inputs(), inputs, strict=True):
        bound = onnxruntime.OrtValue.ortvalue_from_numpy(value)  # on a CPU without copying
        binding.bind_ortvalue_input(info.name, bound)
        held += [bound, value]
    outputs = []
    for info in session.get_outputs():
        bound = onnxruntime.OrtValue.ortvalue_from_shape_and_type(info.shape, np.float32)
        binding.bind_ortvalue_output(info.name, bound)
        outputs.append(bound)
    held += outputs
    # The methods behind session.run_with_iobinding, without its Python.
    run = partial(session._sess.run_with_iobinding, binding._iobinding, None)
    return Ready(run, outputs[0].numpy, weight_bytes, keep=held)
