"""Sizes that inputs are tried with: those of a file where it says some, else such as work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from gq_tvm.errors import Error
from gq_tvm.onnx_import.graph_file import Input
from gq_tvm.onnx_import.limits import MOST
from gq_tvm.onnx_import.values import torch_dtype

# Of an axis that is no batch, first what suits spectra and pictures, then recordings: whole
# numbers of frames, and multiples of what networks halve. [C]
_LONG = (64, 96, 48, 512, 576, 1024, 16000, 32, 16, 80, 8, 4, 3, 2, 1)
_STEP = 32  # between axes, and between what is tried first and second
_BATCH = 2
_MOST_INPUT = MOST // 4  # bytes: what is computed of an input takes several times as much


@dataclass(frozen=True)
class Axes:
    """The axes of the inputs of a graph.

    Attributes:
        inputs: They.
        names: For each input, for each axis, its size or the name of what is known at run time.
        values: What inputs of single numbers are tried with, by name: what graphs compare them to.
    """

    inputs: list[Input]
    names: list[list[int | str]]
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def free(self) -> list[str]:
        """All that are known at run time."""
        return list(
            dict.fromkeys(one for each in self.names for one in each if isinstance(one, str))
        )

    def shapes(self, sizes: Mapping[str, int]) -> list[list[int]]:
        """The shapes of the inputs."""
        return [
            [one if isinstance(one, int) else sizes[one] for one in each] for each in self.names
        ]

    def tensors(self, sizes: Mapping[str, int], seed: int = 0) -> list[Tensor]:
        """Inputs of given sizes: normal deviates, integers 0 and 1 (lengths and places: 1).

        Raises:
            Error: one is larger than is believed.
        """
        generator = torch.Generator().manual_seed(seed)
        found = []
        for one, shape in zip(self.inputs, self.shapes(sizes), strict=True):
            dtype = torch_dtype(one.element)
            if prod(shape) * dtype.itemsize > _MOST_INPUT:
                raise Error(f"input {one.name} has {prod(shape):,} elements, more than is believed")
            if dtype.is_floating_point:
                found.append(torch.randn(shape, generator=generator).to(dtype))
            elif len(shape) < 2:
                found.append(torch.full(shape, self.values.get(one.name, 1), dtype=dtype))
            else:
                found.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
        return found


def axes_of(inputs: Sequence[Input], given: Mapping[str, int], values: Mapping[str, Any]) -> Axes:
    """Name the axes of inputs.

    Args:
        inputs: Of a graph.
        given: Sizes by the name in the file, or by ``input.axis``; these are constants then.
        values: See `Axes`.

    Raises:
        Error: an input has no known number of axes, or a name is no size's.
    """
    names: list[list[int | str]] = []
    known = set()
    for one in inputs:
        if one.shape is None:
            raise Error(f"input {one.name} has no known number of axes; write its shape into it")
        each: list[int | str] = []
        for axis, size in enumerate(one.shape):
            own = f"{one.name}.{axis}"
            name = size if isinstance(size, str) else own
            known |= {own, name} if not isinstance(size, int) else set()
            if isinstance(size, int):
                each.append(size)
            else:
                each.append(given.get(own, given.get(name, name)))
        names.append(each)
    unknown = sorted(set(given) - known)
    if unknown:
        raise Error(
            f"no input has a size {unknown[0]} known at run time; there are "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    return Axes(list(inputs), names, values)


def tries(axes: Axes) -> Iterator[dict[str, int]]:
    """Sizes that may work, the likeliest first."""
    free = axes.free
    if not free:
        yield {}
        return
    seen: list[dict[str, int]] = []
    for batches in _batches(axes):
        for long in _LONG:
            sizes = dict.fromkeys(free, _BATCH)
            for at, name in enumerate(one for one in free if one not in batches):
                sizes[name] = long + _STEP * at
            if sizes not in seen:
                seen.append(sizes)
                yield sizes


def others(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes that differ from those that work, each of them, the likeliest first."""
    for long in (_STEP, 0):
        yield {
            name: one + 1 if one == _BATCH else one + long if long else 2 * one
            for name, one in sizes.items()
        }


def _batches(axes: Axes) -> Iterator[set[str]]:
    """Which sizes may be a number of examples."""
    free, first = axes.free, {each[0] for each in axes.names if each}
    named = {one for one in free if "batch" in one.lower()}
    leading: set[Any] = {one for one in first if isinstance(one, str)}
    yield named or leading
    yield named | leading
    behind = {one for each in axes.names[1:] for one in each if isinstance(one, str)}
    yield named | leading | behind
    if len(axes.names) > 1:
        yield behind - {one for one in axes.names[0] if isinstance(one, str)}
    yield set()
    yield set(free)
