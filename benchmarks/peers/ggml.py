"""ggml (llama.cpp), built from source; activations become int8 by block of 32 or 256.

Its types hold scales a block, so their bits are not whole. It sets no store by an importance
matrix here: all inputs weigh the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.candidate import Candidate, Ready
from benchmarks.models import StreamingLSTM
from benchmarks.native.ggml import shim
from benchmarks.peers.tflite_models import lstm_weight
from benchmarks.problems import Layer, Model
from gq_tvm.errors import Error


@dataclass(frozen=True)
class _Type:
    """A weight type: its number in ggml.h, its bits without scales, inputs a block."""

    name: str
    number: int
    bits: int
    block: int
    repack: bool = False
    codebook: str = ""


_TYPES = [
    _Type("BF16", 30, 16, 1),
    _Type("Q8_0", 8, 8, 32),
    _Type("Q6_K", 14, 6, 256),
    _Type("Q4_K", 12, 4, 256, repack=True),
    _Type("Q4_0", 2, 4, 32, repack=True),
    _Type("IQ4_NL", 20, 4, 32, repack=True, codebook="fixed"),
    _Type("MXFP4", 39, 4, 32, repack=True, codebook="fixed"),
    _Type("Q3_K", 11, 3, 256),
    _Type("Q2_K", 10, 2, 256, repack=True),
    _Type("TQ2_0", 35, 2, 256),
    _Type("Q1_0", 41, 1, 128),
]

# Returns a graph's handle, or None where ggml has no kernel.
_Make = Callable[[_Type], int | None]


def layer(problem: Layer) -> list[Candidate]:
    """One product."""

    def make(kind: _Type) -> int | None:
        if problem.inputs % kind.block:
            raise Error(f"{kind.name} needs a multiple of {kind.block} inputs")
        return shim().shim_linear(
            kind.number, problem.outputs, problem.inputs, problem.rows,
            problem.weight.ctypes.data_as(ctypes.c_void_p), problem.threads, int(kind.repack),
        )  # fmt: skip

    return _candidates(make, problem.x, problem.outputs)


def model(problem: Model) -> list[Candidate]:
    """An LSTM stack as a graph; a Conformer would need a port of its own."""
    module = problem.module
    if not isinstance(module, StreamingLSTM):
        return []
    cells = module.lstm
    width, layers = cells.hidden_size, cells.num_layers
    weights, biases, states = [], [], []
    for number in range(layers):
        weight, bias = (_reordered(one) for one in lstm_weight(cells, number))
        weights += [weight[:, :width].copy(), weight[:, width:].copy()]
        biases.append(bias)
        states += [state[number, 0] for state in problem.inputs[1:]]

    def make(kind: _Type) -> int | None:
        return shim().shim_lstm(
            kind.number, layers, width, _pointers(weights), _pointers(biases), _pointers(states),
            problem.threads, int(kind.repack),
        )  # fmt: skip

    return _candidates(make, problem.inputs[0], width)


def _candidates(make: _Make, x: NDArray[np.float32], outputs: int) -> list[Candidate]:
    return [
        Candidate(
            "ggml", kind.name, kind.bits,
            "bf16" if kind.name == "BF16" else "int8 by block",
            partial(_prepare, make, kind, x, outputs), codebook=kind.codebook,
        )
        for kind in _TYPES
    ]  # fmt: skip


def _prepare(make: _Make, kind: _Type, x: NDArray[np.float32], outputs: int) -> Ready:
    pointer = make(kind)
    if not pointer:
        raise Error(f"ggml has no kernel for {kind.name} here")
    graph, library = _Graph(pointer), shim()
    ctypes.memmove(library.shim_input(pointer), x.ctypes.data, x.nbytes)
    rows = x.size // x.shape[-1]
    memory = (ctypes.c_float * (rows * outputs)).from_address(library.shim_output(pointer))
    y = np.ctypeslib.as_array(memory).reshape(rows, outputs)
    run = partial(library.shim_run, ctypes.c_void_p(pointer))
    return Ready(run, lambda: y, library.shim_weight_bytes(pointer), keep=graph)


class _Graph:
    """A graph of the shim, freed with this object."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __del__(self) -> None:
        shim().shim_free(self._pointer)


def _reordered(gates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gates [4H, ...] from PyTorch's order i, f, g, o to i, f, o, g."""
    i, f, g, o = np.split(gates, 4)
    return np.concatenate([i, f, o, g])


def _pointers(arrays: list[NDArray[np.float32]]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(one.ctypes.data for one in arrays))
