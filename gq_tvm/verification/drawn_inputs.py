"""Inputs to try a function with: random ones, and those a file holds."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils import _pytree

from gq_tvm.exported.inputs import Input, read_arrays
from gq_tvm.plan.plan import Function, Plan
from gq_tvm.plan.size import Computed, Named, Size, evaluate

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
    free = not any(isinstance(s, Computed) for tensor in function.inputs for s in tensor.shape)
    while len(calls) < _CALLS and (known or free):
        if known and not (free and calls):
            add(shapes)
            continue
        sizes = {name: _size(rng, one) for name, one in sorted(function.sizes.items())}
        add([tuple(evaluate(s, sizes) for s in tensor.shape) for tensor in function.inputs])
    return calls


def _examples(function: Function, program: ExportedProgram) -> list[NDArray | None]:
    """The inputs the program was exported with, None where it does not tell."""
    leaves = _pytree.tree_leaves(program.example_inputs or ())
    if len(leaves) != len(function.inputs):
        return [None] * len(function.inputs)
    return [leaf.numpy() if isinstance(leaf, torch.Tensor) else None for leaf in leaves]


def _size(rng: np.random.Generator, size: Named) -> int:
    least = max(size.least, 1)
    most = min(size.most or least + _MOST_FRAMES, least + _MOST_FRAMES)
    return int(rng.integers(least, most + 1))


def _random(
    rng: np.random.Generator, dtype: str, shape: tuple[int, ...], example: NDArray | None
) -> NDArray:
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    low, high = (0, 0) if example is None or not example.size else (example.min(), example.max())
    return rng.integers(int(low), int(high) + 1, shape).astype(dtype)


def read(file: str | os.PathLike[str], plan: Plan) -> dict[str, list[list[NDArray]]]:
    """The inputs in an ``.npz`` file, for the functions it has inputs of.

    Raises:
        Error: see ``exported.inputs.read_arrays``.
    """
    functions = {
        name: [Input(one.name, one.dtype, tuple(map(_spelled, one.shape))) for one in its.inputs]
        for name, its in plan.functions.items()
    }
    return read_arrays(file, functions)


def _spelled(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)
