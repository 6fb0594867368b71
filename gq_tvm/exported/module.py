"""An exported program in float as a module whose products are layers again.

Exporting left operators and tensors. What multiplies by a parameter is a layer here, of PyTorch's
class and with the exporter's names, so that all that works on layers works on a program; whatever
else the program does is run as it was exported.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from gq_tvm.errors import Error
from gq_tvm.exported.cells import with_cells_apart
from gq_tvm.exported.known import Values
from gq_tvm.exported.matching import Match, call, match
from gq_tvm.exported.naming import classes, name_layer
from gq_tvm.exported.operators import OperatorLayer, find_operators


def as_module(programs: Mapping[str, ExportedProgram], activation: str | None = None) -> nn.Module:
    """Make a module of exported programs.

    Args:
        programs: What ``torch.export.export`` returned, by name. Operators with codebooks become
            layers too, to be looked at.
        activation: One of ``ops.checks.ACTIVATIONS`` for all of these, None as each was trained.

    Returns:
        In evaluation mode. Of one program: a module that takes its inputs flat and in order, and
        gives a tensor or a tuple of all outputs. Of several: one that takes the name of a program
        before its inputs; the programs are its children, and weights that are alike are shared.
    """
    weights: dict[bytes, nn.Parameter] = {}
    children = {name: ProgramModule(one, weights, activation) for name, one in programs.items()}
    if len(children) == 1:
        return next(iter(children.values())).eval()
    return Programs(children).eval()


@dataclass(frozen=True)
class Recipe:
    """How a module runs its program; copies of the module share it.

    Attributes:
        program: The program, cells taken apart.
        layers: The path of the layer that a node is, and the match, by the node's name.
        idle: Nodes that are not run: what only layers have read.
        operators: The path of the layer that an operator with codebooks is, by the node's name.
        tensors: The path of what each placeholder of a parameter, buffer or constant is.
    """

    program: ExportedProgram
    layers: dict[str, tuple[str, Match]]
    idle: tuple[fx.Node, ...]
    operators: dict[str, str]
    tensors: dict[str, str]

    def __deepcopy__(self, memo: dict[int, Any]) -> Recipe:
        return self


class Programs(nn.Module):
    """Several programs; see `as_module`."""

    def __init__(self, children: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, name: str, *inputs: Tensor) -> Any:
        """Run one of them."""
        return self.get_submodule(name)(*inputs)


class ProgramModule(nn.Module):
    """A program; see `as_module`.

    Args:
        program: What ``torch.export.export`` returned, in float.
        weights: Those of programs beside it, by what they hold; its own are added.
        activation: See `as_module`.
    """

    def __init__(
        self,
        program: ExportedProgram,
        weights: dict[bytes, nn.Parameter],
        activation: str | None = None,
    ) -> None:
        super().__init__()
        program = with_cells_apart(program)
        values = Values(program)
        nodes = list(program.graph.nodes)
        matches = {one.node: one for one in (match(node, values) for node in nodes) if one}
        idle = _idle(nodes, matches)
        live = {
            node.name: spec
            for spec, node in zip(program.graph_signature.input_specs, nodes, strict=False)
            if spec.kind is not InputKind.USER_INPUT and node not in idle
        }
        self._kinds = classes(nodes)
        layers, held = self._make_layers(matches, values, weights, live)
        operators = find_operators(program)
        for node in nodes:
            if node.name in operators:
                layer = OperatorLayer(node.target, activation)
                self._add(operators[node.name], layer)
        for spec in live.values():
            if spec.target not in held:
                self._hold(spec, program)
        tensors = {name: held.get(spec.target, str(spec.target)) for name, spec in live.items()}
        self.recipe = Recipe(program, layers, tuple(idle), operators, tensors)

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs: a tensor, or a tuple of all there are."""
        recipe = self.recipe
        given: dict[fx.Node, Any] = dict.fromkeys(recipe.idle)
        for node in recipe.program.graph.find_nodes(op="placeholder"):
            if node.name in recipe.tensors:
                given[node] = at(self, recipe.tensors[node.name])
        results = _Run(self, recipe).run(*inputs, initial_env=given)
        outputs = []
        for spec, value in zip(recipe.program.graph_signature.output_specs, results, strict=True):
            if spec.kind is OutputKind.BUFFER_MUTATION:
                at(self, str(spec.target)).copy_(value)
            elif spec.kind is OutputKind.USER_OUTPUT:
                outputs.append(value)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _hold(self, spec: Any, program: ExportedProgram) -> None:
        """Take a tensor that operators read by its name."""
        target = str(spec.target)
        prefix, _, name = target.rpartition(".")
        value = program.state_dict.get(target, program.constants.get(target))
        holder = _module_at(self, prefix, self._kinds)
        if isinstance(value, nn.Parameter):
            holder.register_parameter(name, value)
        elif isinstance(value, Tensor):
            # A run may write to a buffer, and the program is to stay as it is.
            holder.register_buffer(name, value.clone() if spec.kind is InputKind.BUFFER else value)
        else:
            raise Error(
                f"the program holds {target}, a {type(value).__name__} and no tensor; export the "
                "model without it"
            )

    def _add(self, path: str, layer: nn.Module) -> None:
        """Put a layer at a path, around those that are inside it already."""
        for name, part in _module_at(self, path, self._kinds).named_children():
            layer.add_module(name, part)
        prefix, _, name = path.rpartition(".")
        _module_at(self, prefix, self._kinds).add_module(name, layer)

    def _make_layers(
        self,
        matches: Mapping[fx.Node, Match],
        values: Values,
        weights: dict[bytes, nn.Parameter],
        live: Mapping[str, Any],
    ) -> tuple[dict[str, tuple[str, Match]], dict[str, str]]:
        """Make a layer for all nodes alike; gives `Recipe.layers`, and where parameters lie."""
        groups: dict[Any, list[Match]] = defaultdict(list)
        for one in matches.values():
            groups[one.kind, one.options, one.weights].append(one)
        holders: dict[Any, int] = defaultdict(int)
        direct = set()
        for _, _, known in groups:
            holders[known[0][1].key] += 1
            direct |= {one.target for _, one in known}
        taken = {str(spec.target) for spec in live.values()} - direct
        layers: dict[str, tuple[str, Match]] = {}
        held: dict[str, str] = {}
        for group in groups.values():
            first = group[0]
            path = name_layer(first, holders[first.weights[0][1].key] > 1, taken)
            tensors = {}
            for name, its in first.weights:
                tensors[name] = _interned(values.tensor(its), weights)
                taken.add(f"{path}.{name}")
                if its.target:
                    held.setdefault(its.target, f"{path}.{name}")
            taken.add(path)
            self._add(path, _layer(first, tensors))
            layers |= {one.node.name: (path, one) for one in group}
        return layers, held


class _Run(fx.Interpreter):
    """One run of a program, its layers by modules."""

    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module, graph=recipe.program.graph)
        self._recipe = recipe

    def run_node(self, n: fx.Node) -> Any:
        """Run an operator, or the layer that it is."""
        assert isinstance(self.module, nn.Module)
        if n.name in self._recipe.operators:
            layer = self.module.get_submodule(self._recipe.operators[n.name])
            assert isinstance(layer, OperatorLayer)
            return layer.run(*self.fetch_args_kwargs_from_env(n)[0])
        if n.name not in self._recipe.layers:
            return super().run_node(n)
        path, found = self._recipe.layers[n.name]
        inputs = tuple(self.env[one] for one in found.inputs)
        return call(self.module.get_submodule(path), inputs)


def _idle(nodes: list[fx.Node], matches: Mapping[fx.Node, Match]) -> dict[fx.Node, None]:
    """What only layers read, as weights, in the order of the program."""
    needed = {one for node, found in matches.items() for one in found.inputs}
    idle: dict[fx.Node, None] = {}
    for node in reversed(nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op == "output" or node in matches or node in needed:
            continue
        if node.op != "placeholder" and (not node.users or (schema and schema.is_mutable)):
            continue
        if all(user in matches or user in idle for user in node.users):
            idle[node] = None
    return dict.fromkeys(reversed(idle))


def _interned(value: Tensor, weights: dict[bytes, nn.Parameter]) -> nn.Parameter:
    """The parameter that holds this value already, where it says something."""
    # PyTorch folds a product otherwise where a gradient is asked for, and sums in another order.
    like = nn.Parameter(value.detach(), value.requires_grad)
    parameter = value if isinstance(value, nn.Parameter) else like
    flat = value.detach().cpu().contiguous()
    if flat.dim() < 2 or not flat.numel() or bool((flat == flat.flatten()[0]).all()):
        return parameter
    about = f"{flat.dtype} {tuple(flat.shape)} ".encode()
    digest = hashlib.sha256(about + flat.view(torch.uint8).numpy().tobytes()).digest()
    return weights.setdefault(digest, parameter)


def _layer(found: Match, tensors: Mapping[str, nn.Parameter]) -> nn.Module:
    options = dict(found.options)
    if options.get("padding_idx") is not None:
        row = tensors["weight"][options["padding_idx"]]
        if row.count_nonzero():  # trained on, or loaded: no padding any longer
            options["padding_idx"] = None
    layer = found.kind(**options, device="meta")
    for name, tensor in tensors.items():
        setattr(layer, name, tensor)
    return layer


def _module_at(root: nn.Module, path: str, kinds: Mapping[str, str]) -> nn.Module:
    """The module at a path, made where there is none; called as the exporter's class was."""
    module, done = root, ""
    for name in path.split(".") if path else ():
        done = f"{done}.{name}" if done else name
        if name not in module._modules:
            kind = kinds.get(done, "")
            made = type(kind, (nn.Module,), {}) if kind.isidentifier() else nn.Module
            module.add_module(name, made())
        inner = module._modules[name]
        assert inner is not None
        module = inner
    return module


def at(module: nn.Module, path: str) -> Any:
    """What lies at a path."""
    prefix, _, name = path.rpartition(".")
    return getattr(module.get_submodule(prefix), name)
