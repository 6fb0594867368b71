"""Inputs to try a function with: random ones, and those a file holds."""

from __future__ import annotations

import os
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils import _pytree

from gq_tvm.errors import Error
from gq_tvm.runtime.manifest import Function, Manifest

_CALLS = 4
_MOST_FRAMES = 16  # how far a size known at run time is drawn above its least value


def draw(function: Function, program: ExportedProgram) -> list[list[NDArray]]:
    """Random inputs: of the sizes the program was exported with, and of others it allows.

    Floats are normal; integers out of the range the example's cover. There are none where a size
    is computed from others and the program has no example.
    """
    rng = np.random.default_rng(0)
    examples = _examples(function, program)
    calls: list[list[NDArray]] = []

    def add(shapes: list[tuple[int, ...]]) -> None:
        calls.append(
            [
                _random(rng, tensor.dtype, shape, example)
                for tensor, shape, example in zip(function.inputs, shapes, examples, strict=True)
            ]
        )

    shapes = [example.shape for example in examples if example is not None]
    known = len(shapes) == len(function.inputs)
    named = {size for tensor in function.inputs for size in tensor.shape if isinstance(size, str)}
    free = named <= function.bounds.keys()  # else a size computed from others
    while len(calls) < _CALLS and (known or free):
        if known and not (free and calls):
            add(shapes)
            continue
        sizes = {name: _size(rng, *function.bounds[name]) for name in sorted(named)}
        add(
            [
                tuple(s if isinstance(s, int) else sizes[s] for s in tensor.shape)
                for tensor in function.inputs
            ]
        )
    return calls


def _examples(function: Function, program: ExportedProgram) -> list[NDArray | None]:
    """The inputs the program was exported with, None where it does not tell."""
    leaves = _pytree.tree_leaves(program.example_inputs or ())
    if len(leaves) != len(function.inputs):
        return [None] * len(function.inputs)
    return [leaf.numpy() if isinstance(leaf, torch.Tensor) else None for leaf in leaves]


def _size(rng: np.random.Generator, low: int | None, high: int | None) -> int:
    least = max(low or 1, 1)
    most = min(high or least + _MOST_FRAMES, least + _MOST_FRAMES)
    return int(rng.integers(least, most + 1))


def _random(
    rng: np.random.Generator, dtype: str, shape: tuple[int, ...], example: NDArray | None
) -> NDArray:
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    low, high = (0, 0) if example is None or not example.size else (example.min(), example.max())
    return rng.integers(int(low), int(high) + 1, shape).astype(dtype)


def read(file: str | os.PathLike[str], manifest: Manifest) -> dict[str, list[list[NDArray]]]:
    """The inputs in an ``.npz`` file, for the functions it has all inputs of.

    Raises:
        Error: it is no such file, or has the inputs of no function.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, BadZipFile) as failure:
        raise Error(f"{file} is not a readable .npz file; write it with numpy.savez") from failure
    found = {}
    for name, function in manifest.functions.items():
        keys = [
            key if key in arrays else f"{name}.{key}"
            for key in (tensor.name for tensor in function.inputs)
        ]
        if all(key in arrays for key in keys):
            found[name] = [[arrays[key] for key in keys]]
    if not found:
        names = ", ".join(t.name for f in manifest.functions.values() for t in f.inputs)
        raise Error(f"{file} has the inputs of no function; name the arrays {names}")
    return found
