"""Plain rounding: the outermost level is the largest weight of a row or of a group of 32."""

from __future__ import annotations

import numpy as np

from benchmarks.compression.rivals.exchange import Layer, Rounded, grouped_bytes, padded


def rounded(layer: Layer, variant: str) -> Rounded:
    """Variants: ``4`` bits with a 16-bit scale a row, ``4g32`` with one for each 32 inputs."""
    bits, _, group = variant.partition("g")
    top = 2 ** (int(bits) - 1) - 1
    size = int(group) if group else layer.weight.shape[1]
    filled = padded(layer.weight, size)
    grouped = filled.reshape(len(filled), -1, size)
    scale = (abs(grouped).max(-1, keepdims=True) / top).astype(np.float16).astype(np.float32)
    levels = np.round(grouped / np.where(scale > 0, scale, 1)).clip(-top - 1, top)
    values = (levels * scale).reshape(filled.shape)[:, : layer.weight.shape[1]]
    shape = layer.weight.shape
    return Rounded(values, grouped_bytes(shape, int(bits), int(group) if group else None))
