"""LiteRT (TensorFlow Lite) with its default CPU delegate, XNNPACK.

Weights of 8, 4 and 2 bits have a scale a row; activations become int8 by row, inside the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.candidate import Candidate, Ready
from benchmarks.models import Conformer, StreamingLSTM
from benchmarks.peers import tflite_models
from benchmarks.problems import Layer, Model

_NAMES = {32: "fp32", 8: "int8", 4: "int4", 2: "int2"}


def layer(problem: Layer) -> list[Candidate]:
    """One fully connected operator."""
    return _candidates(
        partial(tflite_models.linear, problem.weight, problem.rows), [problem.x], problem.threads
    )


def model(problem: Model) -> list[Candidate]:
    """The whole model as one graph."""
    module = problem.module
    if isinstance(module, StreamingLSTM):
        x, h, c = problem.inputs
        states = [one for pair in zip(h, c, strict=True) for one in pair]
        return _candidates(partial(tflite_models.lstm, module), [x[0], *states], problem.threads)
    assert isinstance(module, Conformer)
    graph = partial(tflite_models.conformer, module)
    return _candidates(graph, problem.inputs, problem.threads)


def _candidates(
    graph: Callable[[int], tflite_models.File], inputs: Sequence[np.ndarray], threads: int
) -> list[Candidate]:
    return [
        Candidate(
            "LiteRT", name, bits, "fp32" if bits == 32 else "int8",
            partial(_prepare, graph, bits, inputs, threads),
        )
        for bits, name in _NAMES.items()
    ]  # fmt: skip


def _prepare(
    graph: Callable[[int], tflite_models.File],
    bits: int,
    inputs: Sequence[np.ndarray],
    threads: int,
) -> Ready:
    content, weight_bytes = graph(bits)
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    output = interpreter.get_output_details()[0]["index"]
    # Interpreter.invoke checks that nobody holds a view of its memory; its callee only computes.
    run = interpreter._interpreter.Invoke
    return Ready(run, lambda: interpreter.get_tensor(output), weight_bytes, keep=interpreter)
