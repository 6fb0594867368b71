"""Fourier transforms, windows and mel filters."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gq_tvm.onnx_import.limits import check_count
from gq_tvm.onnx_import.registry import Node, operator
from gq_tvm.onnx_import.values import Host, from_numpy, torch_dtype


def _waves(size: int, bins: int, inverse: bool = False) -> tuple[NDArray, NDArray]:
    """Cosines and sines [bins, size] of a Fourier transform, f64."""
    check_count(bins, size)
    turns = np.outer(np.arange(bins), np.arange(size)) % size
    angle = 2 * np.pi * turns / size * (1 if inverse else -1)
    return np.cos(angle), np.sin(angle)


@operator("STFT", host=(1, 3))
def _stft(
    node: Node,
    x: Tensor,
    step: Host,
    window: Tensor | None = None,
    length: Host | None = None,
) -> Tensor:
    size = int(length.number()) if length is not None else None
    if size is None:
        if window is None:
            raise node.refuse("has neither a window nor a frame length")
        size = int(window.shape[0])
    is_complex = x.dim() == 3 and x.shape[-1] == 2
    bins = size // 2 + 1 if node.get("onesided", 1) and not is_complex else size
    cosines, sines = (from_numpy(one).to(x.dtype) for one in _waves(size, bins))
    if window is not None:
        pad = size - int(window.shape[0])
        window = functional.pad(window, (pad // 2, pad - pad // 2)) if pad else window
        cosines, sines = cosines * window, sines * window
    stride = int(step.number())
    parts = x.reshape([*x.shape[:2], -1]).movedim(-1, 1)  # [B, 1 or 2, L]

    def swept(channel: int, waves: Tensor) -> Tensor:
        return functional.conv1d(parts[:, channel : channel + 1], waves[:, None], stride=stride)

    real, imaginary = swept(0, cosines), swept(0, sines)
    if is_complex:
        real, imaginary = real - swept(1, sines), imaginary + swept(1, cosines)
    return torch.stack([real, imaginary], -1).transpose(1, 2)


@operator("DFT", host=(1, 2))
def _dft(node: Node, x: Tensor, length: Host | None = None, axis: Host | None = None) -> Tensor:
    place = int(
        node.get("axis", 1)
        if axis is None and node.version < 20
        else -2
        if axis is None
        else axis.number()
    )
    place += x.dim() if place < 0 else 0
    size = int(x.shape[place] if length is None else length.number())
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    x = x.movedim(place, -2)
    if inverse and onesided:
        raise node.refuse("is an inverse of one side, which is not computed here")
    if x.shape[-2] > size:
        x = x.narrow(-2, 0, size)
    bins = size // 2 + 1 if onesided else size
    cosines, sines = (
        from_numpy(one[:, : x.shape[-2]]).to(x.dtype) for one in _waves(size, bins, inverse)
    )
    real, imaginary = cosines @ x[..., :1], sines @ x[..., :1]
    if x.shape[-1] == 2:
        real, imaginary = real - sines @ x[..., 1:], imaginary + cosines @ x[..., 1:]
    y = torch.cat([real, imaginary], -1)
    return (y / size if inverse else y).movedim(-2, place)


_COSINES = {"HannWindow": (0.5, 0.5), "HammingWindow": (25 / 46, 21 / 46)}


@operator("HannWindow", "HammingWindow", "BlackmanWindow", host=(0,))
def _window(node: Node, size: Host) -> Tensor:
    count = size.number()
    check_count(count)
    span = count if node.get("periodic", 1) else count - 1
    angle = 2 * np.pi * np.arange(count) / span
    if node.operator == "BlackmanWindow":
        values = 0.42 - 0.5 * np.cos(angle) + 0.08 * np.cos(2 * angle)
    else:
        mean, swing = _COSINES[node.operator]
        values = mean - swing * np.cos(angle)
    return from_numpy(values).to(torch_dtype(int(node.get("output_datatype", 1))))


@operator("MelWeightMatrix", host=(0, 1, 2, 3, 4))
def _mel_weights(
    node: Node, bands: Host, size: Host, rate: Host, lowest: Host, highest: Host
) -> Tensor:
    """Triangles on whole bins, equally wide in mel (2595 log10(1 + f / 700)), as ONNX has them."""
    count, length = int(bands.number()), int(size.number())
    bins = length // 2 + 1
    check_count(bins, count + 2)
    ends = [2595 * math.log10(1 + float(one.number()) / 700) for one in (lowest, highest)]
    step = (ends[1] - ends[0]) / (count + 2)
    mel = np.arange(count + 2) * step + ends[0]
    frequency = 700 * (10 ** (mel / 2595) - 1)
    edges = np.floor((length + 1) * frequency / int(rate.number())).astype(np.int64)
    weights = np.zeros((bins, count))
    for band in range(count):
        low, centre, high = edges[band : band + 3]
        if centre == low:
            weights[centre, band] = 1
        else:
            rising = np.arange(low, centre + 1)
            weights[rising, band] = (rising - low) / (centre - low)
        if high > centre:
            falling = np.arange(centre, high)
            weights[falling, band] = (high - falling) / (high - centre)
    return from_numpy(weights).to(torch_dtype(int(node.get("output_datatype", 1))))
