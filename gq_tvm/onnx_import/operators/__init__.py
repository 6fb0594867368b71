"""The operators, a family a file; importing this registers all."""

from __future__ import annotations

from gq_tvm.onnx_import.operators import (
    attention,
    codebook,
    convolution,
    elementwise,
    group_query,
    indexing,
    normalisation,
    on_host,
    pooling,
    products,
    qlinear,
    quantised,
    recurrent,
    reduction,
    resize,
    shapes,
    signal,
)

__all__ = [
    "attention",
    "codebook",
    "convolution",
    "elementwise",
    "group_query",
    "indexing",
    "normalisation",
    "on_host",
    "pooling",
    "products",
    "qlinear",
    "quantised",
    "recurrent",
    "reduction",
    "resize",
    "shapes",
    "signal",
]
