"""ggml's weight types: llama.cpp's own quantiser, brought back to floats by the `gguf` package.

The package quantises only the types without super-blocks and can bring all back; the quantiser of
the others is in the library that the wheel of ``pywhispercpp`` carries. Blocks of 32 and 256 run on
over the ends of rows that are no multiple of them, where llama.cpp itself would take a larger type:
so every weight has the type's bytes.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from benchmarks.compression.rivals.exchange import Floats, Layer, Rounded


def rounded(layer: Layer, variant: str) -> Rounded:
    """Variants: a type such as ``Q4_K``; with ``+imatrix`` inputs weigh by their mean square."""
    name, _, weighted = variant.partition("+")
    kind = GGMLQuantizationType[name]
    block, size = GGML_QUANT_SIZES[kind]
    flat = layer.weight.reshape(-1)
    values = np.pad(flat, (0, -len(flat) % block))
    importance = None
    if weighted:
        squares = np.tile((layer.samples.astype(np.float64) ** 2).mean(0), len(layer.weight))
        squares = np.maximum(squares, 1e-9 * squares.max())
        importance = np.pad(squares, (0, len(values) - len(flat)), constant_values=squares.min())
    packed = _quantised(values, kind, importance)
    restored = dequantize(packed.reshape(1, -1), kind).reshape(-1)[: len(flat)]
    bytes_ = len(values) // block * size
    return Rounded(restored.reshape(layer.weight.shape).astype(np.float32), bytes_)


def _quantised(
    values: Floats, kind: GGMLQuantizationType, importance: np.ndarray | None
) -> np.ndarray:
    block, size = GGML_QUANT_SIZES[kind]
    packed = np.zeros(len(values) // block * size, np.uint8)
    values = np.ascontiguousarray(values, np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    written = _library().ggml_quantize_chunk(
        int(kind), values.ctypes.data, packed.ctypes.data, 0, 1, len(values),
        None if weights is None else weights.ctypes.data,
    )  # fmt: skip
    if written != len(packed):
        raise ValueError(f"ggml wrote {written} bytes of {kind.name} for {len(packed)}")
    return packed


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("_pywhispercpp")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package pywhispercpp is not installed", name="pywhispercpp")
    beside = Path(spec.origin).parent
    (path,) = beside.glob("pywhispercpp.libs/libggml-base*.so*")
    library = ctypes.CDLL(str(path))
    quantise = library.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library
