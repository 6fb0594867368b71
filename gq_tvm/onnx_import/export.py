"""From an ONNX file to an exported program: the graph as a module, and torch.export."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim, ExportedProgram

import gq_tvm.onnx_import.operators
import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq)
from gq_tvm.errors import Error
from gq_tvm.onnx_import import graph_file
from gq_tvm.onnx_import.bounds import bounded, is_constant
from gq_tvm.onnx_import.graph_file import Graph, Input
from gq_tvm.onnx_import.limits import Limited
from gq_tvm.onnx_import.module import GraphModule
from gq_tvm.onnx_import.sizes import Axes, axes_of, tries
from gq_tvm.onnx_import.values import numpy_dtype, torch_dtype

Say = Callable[[str], object]


@dataclass(frozen=True)
class Options:
    """What is said of an ONNX file beside it.

    Attributes:
        fixed: Constants for inputs, by name: they are inputs no longer.
        sizes: Constants for sizes known at run time, by the name in the file or ``input.axis``.
        compare: Whether outputs are compared with ONNX Runtime's, where that is installed.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    compare: bool = True


def read(
    path: Path, options: Options | None = None, say: Say = lambda line: None
) -> ExportedProgram:
    """Make an exported program of an ONNX file.

    Inputs have the names of the file, other characters than letters and digits as ``_``. Sizes that
    the file names stay known at run time, as far as torch.export can follow them; those that froze
    are told of.

    Args:
        path: The file; external data lie beside it.
        options: See `Options`.
        say: Called with lines of text: warnings, and how outputs compare.

    Raises:
        Error: the file cannot be read, or a node cannot be computed; the text names it.
    """
    options = options or Options()
    graph = graph_file.read(path)
    fixed = _constants(graph, options.fixed)
    with torch.no_grad():
        model = GraphModule(graph, fixed).eval()
        axes = axes_of(model.inputs, options.sizes, _compared(graph))
        sizes, inputs = _working(path, model, axes, say)
        program = _exported(path, model, axes, inputs)
    _say_what_froze(program, axes, say)
    if options.compare:
        from gq_tvm.onnx_import.comparison import compare

        compare(path, program, axes, sizes, fixed, say)
    return program


def _constants(graph: Graph, given: Mapping[str, Any]) -> dict[str, NDArray]:
    """Constants in the dtypes of the inputs they stand for."""
    inputs = {one.name: one for one in graph.inputs}
    found = {}
    for name, value in given.items():
        if name not in inputs:
            raise Error(f"no input is called {name}; there are {', '.join(inputs) or 'none'}")
        dtype = numpy_dtype(torch_dtype(inputs[name].element))
        shape = inputs[name].shape or ()
        array = np.asarray(value).astype(dtype)
        if array.ndim != len(shape) and array.size == 1:
            array = array.reshape([1] * len(shape))
        found[name] = array
    return found


def _compared(graph: Graph) -> dict[str, Any]:
    """The first number that a graph compares each of its inputs to."""
    arrays = dict(graph.arrays)
    arrays |= {
        node.outputs[0]: np.asarray(next(iter(node.attributes.values())))
        for node in graph.nodes
        if node.operator == "Constant" and node.outputs and node.attributes
    }
    inputs, found = {one.name for one in graph.inputs}, dict[str, Any]()
    for node in graph.nodes:
        if node.operator == "Equal" and len(node.inputs) == 2:
            for name, other in (node.inputs, node.inputs[::-1]):
                if name in inputs and other in arrays and arrays[other].size == 1:
                    found.setdefault(name, arrays[other].item())
    return found


def _working(
    path: Path, model: GraphModule, axes: Axes, say: Say
) -> tuple[dict[str, int], list[Tensor]]:
    """Sizes that the graph runs with, and inputs of them."""
    first: Error | None = None
    found: Any = None
    for sizes in tries(axes):
        inputs = axes.tensors(sizes)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", UserWarning)
            try:
                with Limited():
                    results = model(*inputs)
            except Error as failure:
                first = first or failure
                continue
        if not _has_nan(results):  # else perhaps of an If whose branch does not run
            found = sizes, inputs, warned
            break
        found = found or (sizes, inputs, warned)
    if found is not None:
        sizes, inputs, warned = found
        for text in dict.fromkeys(
            str(one.message) for one in warned if str(one.message).startswith("node ")
        ):
            say(f"warning: {text}")
        return sizes, inputs
    assert first is not None
    free = ", ".join(axes.free)
    cure = f"; if its sizes ({free}) must be others, give them (--size NAME=N)" if free else ""
    raise Error(f"{path}: {first}{cure}") from first


def _has_nan(results: Any) -> bool:
    tensors = results if isinstance(results, tuple) else (results,)
    return any(one.is_floating_point() and bool(one.isnan().any()) for one in tensors)


def _exported(path: Path, model: GraphModule, axes: Axes, inputs: list[Tensor]) -> ExportedProgram:
    """Export a graph, with as many sizes known at run time as can be."""
    names = _identifiers(model.inputs)
    _name_arguments(model, names)
    longer = {one for each in axes.names for one in each[1:] if isinstance(one, str)}
    failure: Exception | None = None
    for frozen in (set(), longer, set(axes.free)):
        dynamic = {
            name: {
                axis: Dim.AUTO
                for axis, one in enumerate(each)
                if isinstance(one, str) and one not in frozen
            }
            for name, each in zip(names, axes.names, strict=True)
        }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    model, tuple(inputs), dynamic_shapes=dynamic if axes.free else None
                )
        except Error as refusal:
            failure = refusal
        except Exception as other:
            failure = other
        else:
            return bounded(program)
        if not axes.free:
            break
    assert failure is not None
    if isinstance(failure, Error):
        raise Error(f"{path}: {failure}") from failure
    why = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
    raise Error(f"{path} cannot be exported by PyTorch: {why[:300]}") from failure


def _identifiers(inputs: list[Input]) -> list[str]:
    found: list[str] = []
    for one in inputs:
        name = re.sub(r"\W", "_", one.name)
        name = name if name.isidentifier() else f"input_{name}"
        while name in found:
            name += "_"
        found.append(name)
    return found


def _name_arguments(model: GraphModule, names: list[str]) -> None:
    """Give `forward` the inputs' names, which torch.export takes from its signature."""
    run = model.forward

    def forward(*inputs: Tensor) -> Any:
        return run(*inputs)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    forward.__signature__ = signature  # type: ignore[attr-defined]
    model.forward = forward  # type: ignore[method-assign]


def _say_what_froze(program: ExportedProgram, axes: Axes, say: Say) -> None:
    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    for name, each, one in zip(
        program.graph_signature.user_inputs, axes.names, axes.inputs, strict=True
    ):
        for axis, size in enumerate(each):
            own = values[str(name)].shape[axis]
            if isinstance(size, str) and is_constant(own):
                say(
                    f"warning: axis {axis} of input {one.name} ({size}) froze at {own}, as the "
                    f"graph computes with its size; --size {size}=N freezes it at another"
                )
