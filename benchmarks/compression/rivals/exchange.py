"""How weights go to a rival and come back: files, since a rival may need a Python of its own.

Nothing here or in the rivals imports gq-tvm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A weight f32 [N, K] and inputs it met, f32 [S, K]; a convolution's taps are inputs."""

    name: str
    weight: Floats
    samples: Floats


@dataclass(frozen=True)
class Rounded:
    """A weight as a rival holds it, brought back to f32 [N, K], and the bytes it takes in all."""

    weight: Floats
    bytes: int


#: From a layer and a variant's name.
Rival = Callable[[Layer, str], Rounded]


def grouped_bytes(
    shape: tuple[int, int], bits: int, group: int | None, scale_bits: int = 16, zero_bits: int = 0
) -> int:
    """Bytes of indices, and of a scale and perhaps a zero point for each group of each row."""
    rows, inputs = shape
    groups = rows * (ceil(inputs / group) if group else 1)
    return ceil(rows * inputs * bits / 8) + ceil(groups * (scale_bits + zero_bits) / 8)


def padded(weight: Floats, group: int) -> Floats:
    """Rows filled up with zeros to whole groups: f32 [N, ceil(K / group) * group]."""
    return np.pad(weight, ((0, 0), (0, -weight.shape[1] % group)))


def read(path: str) -> list[Layer]:
    """Layers from a file of `write`."""
    with np.load(path) as arrays:
        names = [name.removeprefix("weight:") for name in arrays if name.startswith("weight:")]
        return [Layer(one, arrays[f"weight:{one}"], arrays[f"samples:{one}"]) for one in names]


def write(path: str, layers: list[Layer]) -> None:
    """Write what a rival reads."""
    arrays: dict[str, Any] = {f"weight:{one.name}": one.weight for one in layers}
    arrays |= {f"samples:{one.name}": one.samples for one in layers}
    np.savez(path, **arrays)


def read_rounded(path: str) -> dict[str, Rounded]:
    """What a rival wrote."""
    with np.load(path) as arrays:
        names = [name.removeprefix("weight:") for name in arrays if name.startswith("weight:")]
        return {one: Rounded(arrays[f"weight:{one}"], int(arrays[f"bytes:{one}"])) for one in names}


def write_rounded(path: str, rounded: dict[str, Rounded]) -> None:
    """Write what a rival made of each layer."""
    arrays: dict[str, Any] = {f"weight:{name}": one.weight for name, one in rounded.items()}
    arrays |= {f"bytes:{name}": np.array(one.bytes) for name, one in rounded.items()}
    np.savez(path, **arrays)
