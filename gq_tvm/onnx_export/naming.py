"""Names of inputs, outputs and sizes in a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from gq_tvm.errors import Error


def name_all(
    model: ir.Model,
    program: ExportedProgram,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    sizes: Any,
) -> None:
    """Name a model's inputs, outputs and sizes known at run time.

    Args:
        model: What is written of the program; it is changed.
        program: The program.
        inputs: Names, None for those of the program.
        outputs: Names, None for what the program calls them.
        sizes: Names by input and axis, as ``dynamic_shapes``.

    Raises:
        Error: there are more or fewer names than inputs or outputs, or one twice.
    """
    graph = model.graph
    arguments = [str(one) for one in program.graph_signature.user_inputs]
    inputs = list(arguments if inputs is None else inputs)
    outputs = list(_outputs(program, inputs) if outputs is None else outputs)
    for what, names, values in (
        ("input", inputs, graph.inputs),
        ("output", outputs, graph.outputs),
    ):
        if len(names) != len(values):
            raise Error(f"the model has {len(values)} {what}s, and {len(names)} are named")
    named = [*inputs, *outputs]
    twice = next((one for one in named if named.count(one) > 1), None)
    if twice is not None:
        raise Error(f"two inputs or outputs are called {twice}; name them apart")
    _separate_outputs(graph)
    ends = [*graph.inputs, *graph.outputs]
    for value in _values(graph):
        if value.name in named and not any(value is one for one in ends):
            value.name = f"{value.name}__inner"
    for number, value in enumerate(ends):  # two may swap their names
        value.name = f"__end_{number}"
    for value, name in zip(ends, named, strict=True):
        value.name = name
    _name_sizes(graph, arguments, sizes)


def _outputs(program: ExportedProgram, inputs: Sequence[str]) -> list[str]:
    """The keys that a program gives its outputs by, or numbers."""
    spec = program.call_spec.out_spec
    places = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(spec.num_leaves), spec))[0]
    found: list[str] = []
    for number, (path, _) in enumerate(places):
        keys = [str(one.key) for one in path if isinstance(one, pytree.MappingKey)]
        name = "_".join(keys) or ("output" if len(places) == 1 else f"output_{number}")
        while name in inputs or name in found:
            name += "_out"
        found.append(name)
    return found


def _separate_outputs(graph: ir.Graph) -> None:
    """Give each output a value of its own: an input, or another output, may be one too."""
    seen: list[ir.Value] = [*graph.inputs, *graph.initializers.values()]
    for at, value in enumerate(graph.outputs):
        if any(value is one for one in seen):
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[at] = copy.outputs[0]
        seen.append(graph.outputs[at])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _name_sizes(graph: ir.Graph, arguments: Sequence[str], sizes: Any) -> None:
    found: dict[str, str] = {}
    for at, (argument, value) in enumerate(zip(arguments, graph.inputs, strict=True)):
        wanted = _entry(_entry(sizes, argument, at), None, None)
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                given = _entry(wanted, axis, axis)
                name = given if isinstance(given, str) else getattr(given, "__name__", None)
                found.setdefault(size.value, str(name or f"{value.name}_axis{axis}"))
    if not found:
        return
    symbols = re.compile(r"\b(" + "|".join(map(re.escape, found)) + r")\b")
    for value in _values(graph):
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([_renamed(one, symbols, found) for one in value.shape])


def _entry(given: Any, key: Any, at: Any) -> Any:
    """What a mapping has at a key, or a sequence at a place."""
    if isinstance(given, Mapping) and key is not None:
        return given.get(key)
    if isinstance(given, list | tuple) and at is not None:
        return given[at] if at < len(given) else None
    return given if key is None else None


def _renamed(size: Any, symbols: re.Pattern[str], names: Mapping[str, str]) -> Any:
    if isinstance(size, int) or size.value is None:
        return size
    return symbols.sub(lambda match: names[match[0]], size.value)
