"""Whether an artefact computes what the exported program computes in PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils import _pytree

from gq_tvm import frontend
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.runtime.devices import Device
from gq_tvm.runtime.manifest import Function, Manifest
from gq_tvm.runtime.model import load

# Relative L2 errors. Products in fp32 differ by their order of summation. With int8 activations one
# last bit of a sum may move a rounding by a step of 1/127 in the layers behind it; of 1 or 2 bits,
# roundings are few and their steps long, and it is only sure that hardly any moves. Another
# arithmetic than the trained one differs by all its rounding.
BOUND_FP32 = 1e-4
BOUND_INTEGER = 2e-2
BOUND_OTHER = 2e-1
_MOST_FRAMES = 16  # how far a size known at run time is drawn above its least value


@dataclass(frozen=True)
class Comparison:
    """A function's outputs against PyTorch's, over all the inputs tried.

    Attributes:
        function: Its name.
        calls: How often it was called.
        largest: Greatest absolute difference.
        relative: Greatest relative L2 error of an output.
        bound: What `relative` may be.
    """

    function: str
    calls: int
    largest: float
    relative: float
    bound: float


@dataclass(frozen=True)
class Report:
    """The comparisons of an artefact's functions."""

    comparisons: list[Comparison]

    def table(self, where: str = "") -> str:
        """A line for each function; ``where`` follows its name."""
        return "\n".join(
            f"{one.function}{where}: max abs error {one.largest:.3g}, relative L2 error "
            f"{one.relative:.3g} (at most {one.bound:g}), {one.calls} calls"
            for one in self.comparisons
        )

    def failures(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        return "; ".join(
            f"{one.function} differs from PyTorch by {one.relative:.3g} (relative L2, at most "
            f"{one.bound:g})"
            for one in self.comparisons
            if not one.relative <= one.bound
        )


def verify(
    source: Any,
    path: str | os.PathLike[str],
    device: Device | None = None,
    inputs: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> Report:
    """Run the exported programs and the artefact on the same inputs.

    Args:
        source: What the artefact was built from; see `gq_tvm.build`.
        path: The artefact.
        device: Where to run it; None is this process.
        inputs: An ``.npz`` file with more inputs, named as the inputs are (``function.input``
            where there are several functions).
        threads: Of the artefact's calls; None is what it was compiled for.

    Raises:
        Error: the artefact cannot be loaded or the inputs do not fit.
    """
    programs = frontend.read(source).programs
    model = load(path, device, threads)
    given = _read_inputs(inputs, model.manifest) if inputs else {}
    comparisons = []
    for name, function in model.manifest.functions.items():
        if name not in programs:
            raise Error(f"{path} has a function {name} that the exported model lacks")
        calls = [*_drawn(function, programs[name]), *given.get(name, [])]
        if not calls:
            raise Error(f"cannot draw inputs for function {name}; give some with --inputs")
        errors = [_compare(programs[name], model[name], arrays) for arrays in calls]
        largest, relative = (max(column) for column in zip(*errors, strict=True))
        bound = _bound(model.manifest, programs)
        comparisons.append(Comparison(name, len(calls), largest, relative, bound))
    return Report(comparisons)


def _compare(program: ExportedProgram, compiled: Any, arrays: list[NDArray]) -> tuple[float, float]:
    got = compiled(*arrays)  # first: it refuses inputs that do not fit, in words
    got = got if isinstance(got, tuple) else (got,)
    tensors = [torch.from_numpy(array.copy()) for array in arrays]
    args, kwargs = _pytree.tree_unflatten(tensors, program.call_spec.in_spec)
    with torch.no_grad():
        wanted = _pytree.tree_leaves(program.module()(*args, **kwargs))
    errors = [
        _error(np.asarray(y, np.float64), z.numpy().astype(np.float64))
        for y, z in zip(got, wanted, strict=True)
    ]
    return max(e[0] for e in errors), max(e[1] for e in errors)


def _error(got: NDArray, wanted: NDArray) -> tuple[float, float]:
    """Greatest absolute difference and relative L2 error; a NaN on one side only is infinite."""
    if got.shape != wanted.shape or (np.isnan(got) != np.isnan(wanted)).any():
        return np.inf, np.inf
    both = np.isfinite(wanted) & np.isfinite(got)
    if (got[~both & ~np.isnan(got)] != wanted[~both & ~np.isnan(wanted)]).any():
        return np.inf, np.inf
    difference, norm = (got - wanted)[both], np.linalg.norm(wanted[both])
    if not difference.size:
        return 0.0, 0.0
    size = np.linalg.norm(difference)
    relative = size / norm if norm else (np.inf if size else 0.0)
    return float(np.abs(difference).max()), float(relative)


def _bound(manifest: Manifest, programs: Mapping[str, ExportedProgram]) -> float:
    trained = {
        argument
        for program in programs.values()
        for node in program.graph.nodes
        if node.op == "call_function" and str(node.target).startswith("gq.")
        for argument in node.args
        if argument in ACTIVATIONS
    } - {"fp32"}
    compiled = {layer.activation for layer in manifest.layers} - {"fp32"}
    if trained != compiled:
        return BOUND_OTHER
    return BOUND_INTEGER if compiled else BOUND_FP32


def _drawn(function: Function, program: ExportedProgram) -> list[list[NDArray]]:
    """Random inputs: of the sizes the program was exported with, and of others it allows."""
    rng = np.random.default_rng(0)
    examples = _examples(function, program)
    calls: list[list[NDArray]] = []

    def draw(shapes: list[tuple[int, ...]]) -> None:
        calls.append(
            [
                _random(rng, tensor.dtype, shape, example)
                for tensor, shape, example in zip(function.inputs, shapes, examples, strict=True)
            ]
        )

    shapes = [example.shape for example in examples if example is not None]
    if len(shapes) == len(function.inputs):
        draw(shapes)
    named = {size for tensor in function.inputs for size in tensor.shape if isinstance(size, str)}
    if not named <= function.bounds.keys():  # a size computed from others: keep to the example's
        return calls
    for _ in range(2 if named or not calls else 1):
        sizes = {name: _size(rng, *function.bounds[name]) for name in sorted(named)}
        draw(
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
    """Normal floats; integers out of the range the example's cover."""
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    low, high = (0, 0) if example is None or not example.size else (example.min(), example.max())
    return rng.integers(int(low), int(high) + 1, shape).astype(dtype)


def _read_inputs(
    file: str | os.PathLike[str], manifest: Manifest
) -> dict[str, list[list[NDArray]]]:
    """The inputs in an ``.npz`` file, for the functions it has all inputs of."""
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
