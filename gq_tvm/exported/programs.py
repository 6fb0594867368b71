"""A module made of exported programs, its layers in codebooks by now, as programs again.

The graph stays what it was, but for the layers that changed: each is traced alone, and what it does
takes the place of its node. So inputs, outputs, sizes known at run time and state are untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    TensorArgument,
)
from torch.func import functional_call

from gq_tvm.exported.inlining import copied, inline, rebuilt, replace
from gq_tvm.exported.matching import call
from gq_tvm.exported.module import ProgramModule, at
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer


def as_programs(
    module: nn.Module, programs: Mapping[str, ExportedProgram]
) -> dict[str, ExportedProgram]:
    """Make programs of a module.

    Args:
        module: What ``as_module`` gave for these programs, or what ``quantize.compress`` made of
            it.
        programs: Those it was made of.

    Returns:
        By name. Inputs, outputs, dynamic sizes, example inputs and buffers are the programs'.
    """
    parts = {
        name: module if len(programs) == 1 else module.get_submodule(name) for name in programs
    }
    return {name: _as_program(part) for name, part in parts.items()}


def _as_program(module: nn.Module) -> ExportedProgram:
    assert isinstance(module, ProgramModule)
    recipe = module.recipe
    graph = copied(recipe.program)
    nodes = {node.name: node for node in graph.nodes}
    specs = recipe.program.graph_signature.input_specs
    kept = sum(spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) for spec in specs)
    lifted = _Lifted(graph, module, list(graph.nodes)[kept])
    for name, path in recipe.tensors.items():
        if not lifted.is_held(path):
            lifted.read(nodes[name], path)
    for name, (path, found) in recipe.layers.items():
        layer = module.get_submodule(path)
        if isinstance(layer, CodebookLayer):
            inputs = [nodes[one.name] for one in found.inputs]
            results = lifted.inlined(nodes[name], path, lambda layer, *x: call(layer, x), inputs)
            replace(graph, nodes[name], results)
            nodes |= {node.name: node for node in graph.nodes}
    _erase_idle(graph, {nodes[one.name] for one in recipe.idle})
    signature, state = _signature(module, graph, lifted)
    return rebuilt(recipe.program, graph, signature, state)


class _Lifted:
    """The tensors that layers hold, as placeholders of a graph.

    Attributes:
        specs: By the placeholder's name.
        state: By path.
    """

    def __init__(self, graph: fx.Graph, module: nn.Module, first: fx.Node) -> None:
        self._graph = graph
        self._module = module
        self._placeholders: dict[str, fx.Node] = {}
        self._whole: dict[int, Tensor] = {}
        self._first = first
        self.specs: dict[str, InputSpec] = {}
        self.state: dict[str, Tensor] = {}

    def is_held(self, path: str) -> bool:
        """Whether a path is a tensor's, and not one that a layer looks up when asked."""
        prefix, _, name = path.rpartition(".")
        holder = self._module.get_submodule(prefix)
        return name in holder._parameters or name in holder._buffers

    def read(self, placeholder: fx.Node, path: str) -> None:
        """Let a layer look up the weight that stood in a placeholder."""
        prefix, _, name = path.rpartition(".")
        users = list(placeholder.users)
        first = next(node for node in self._graph.nodes if node in users)
        (result,) = self.inlined(first, prefix, lambda layer: getattr(layer, name), [])
        placeholder.replace_all_uses_with(result)

    def inlined(
        self, place: fx.Node, path: str, run: Callable[..., Any], inputs: list[fx.Node]
    ) -> list[fx.Node]:
        """Put before a node what a layer does."""
        layer = self._module.get_submodule(path)
        own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        holders = [self._placeholder(f"{path}.{name}", one) for name, one in own.items()]
        calling = _Calling(layer, run)

        def function(*tensors: Tensor) -> Any:
            named = dict(
                zip((f"layer.{name}" for name in own), tensors[len(inputs) :], strict=True)
            )
            return functional_call(calling, named, tensors[: len(inputs)])

        return inline(self._graph, place, function, [*inputs, *holders])

    def _placeholder(self, path: str, tensor: Tensor) -> fx.Node:
        if path in self._placeholders:
            return self._placeholders[path]
        kind, letter = InputKind.BUFFER, "b"
        if isinstance(tensor, nn.Parameter):
            kind, letter = InputKind.PARAMETER, "p"
        with self._graph.inserting_before(self._first):
            node = self._graph.placeholder(f"{letter}_{path.replace('.', '_')}")
        node.target = node.name
        mode = self._fake_mode()
        node.meta["val"] = mode.from_tensor(tensor, static_shapes=True)
        self._placeholders[path] = node
        persistent = True if kind is InputKind.BUFFER else None
        self.specs[node.name] = InputSpec(kind, TensorArgument(node.name), path, persistent)
        if id(tensor) not in self._whole:
            part = tensor.nbytes < tensor.untyped_storage().nbytes()  # a file would hold it all
            self._whole[id(tensor)] = tensor.detach().clone() if part else tensor
        self.state[path] = self._whole[id(tensor)]
        return node

    def _fake_mode(self) -> Any:
        values = (node.meta.get("val") for node in self._graph.nodes)
        return next(one.fake_mode for one in values if hasattr(one, "fake_mode"))


class _Calling(nn.Module):
    def __init__(self, layer: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = layer
        self._run = run

    def forward(self, *inputs: Any) -> Any:
        """What is run of the layer."""
        return self._run(self.layer, *inputs)


def _erase_idle(graph: fx.Graph, idle: set[fx.Node]) -> None:
    """Take away what only layers have read, where no layer reads it any longer."""
    for node in reversed(list(graph.nodes)):
        if node in idle and not node.users and node.op != "placeholder":
            graph.erase_node(node)


def _signature(
    module: ProgramModule, graph: fx.Graph, lifted: _Lifted
) -> tuple[ExportGraphSignature, dict[str, Any]]:
    """What the graph is given, and the tensors; those that nothing reads are gone."""
    program, paths = module.recipe.program, module.recipe.tensors
    before = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    specs, state = [], {}
    for node in list(graph.find_nodes(op="placeholder")):
        spec = lifted.specs.get(node.name) or before[node.name]
        if not node.users and (node.name in lifted.specs or spec.kind is InputKind.PARAMETER):
            graph.erase_node(node)
            continue
        specs.append(spec)
        target = str(spec.target)
        if node.name in lifted.specs:
            state[target] = lifted.state[target]
        elif spec.kind is InputKind.PARAMETER and node.name in paths:
            state[target] = at(module, paths[node.name])
        elif target in program.state_dict:
            state[target] = program.state_dict[target]
    return ExportGraphSignature(specs, program.graph_signature.output_specs), state
