"""Operators with weights in codebooks, of a program that was exported with them, as layers."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from gq_tvm.exported.naming import module_of
from gq_tvm.quantize.deployed.codebook_layers import CodebookLayer

_INDICES = re.compile(r"\.?indices(?:_ih)?(?:_(l(\d+)(_reverse)?))?$")


class OperatorLayer(CodebookLayer):
    """An operator: called with all it takes, weights too.

    Attributes:
        time_first: Whether frames lie along the first axis of what it gives, for whoever looks;
            the operators themselves give [B, T, ...].
    """

    replaced = nn.Module

    def __init__(self, operator: Any, activation: str | None) -> None:
        super().__init__()
        self._operator = operator
        self._activation = activation
        self.time_first = False

    def forward(self, *args: Any) -> Any:
        """What the operator gives."""
        results = self._operator(*overridden(self._operator, args, self._activation))
        return (results[0].transpose(0, 1), *results[1:]) if self.time_first else results

    def run(self, *args: Any) -> Any:
        """The same for the program, in the layout it knows."""
        results = self(*args)
        return (results[0].transpose(0, 1), *results[1:]) if self.time_first else results


def find_operators(program: ExportedProgram) -> dict[str, str]:
    """The path of the layer that each operator is, by the node's name.

    It is called as the buffers of its weight; where operators of two kinds share one, as the
    modules they are in. Of the layers of a stack in one direction the last has the name of the
    whole.
    """
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    groups: dict[tuple[str, str], list[fx.Node]] = defaultdict(list)
    for node in program.graph.nodes:
        if node.op == "call_function" and is_codebook(node.target):
            held = [str(targets[one.name]) for one in node.all_input_nodes if targets.get(one.name)]
            named = next((one for one in held if _INDICES.search(one)), None)
            if named is not None:
                groups[named, str(node.target)].append(node)
    kinds: dict[str, int] = defaultdict(int)
    layers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for target, _ in groups:
        kinds[target] += 1
        path, layer = _place(target)
        layers[path].append(layer)
    found: dict[str, str] = {}
    for (target, _), nodes in groups.items():
        path, layer = _place(target)
        both = any(one.endswith("_reverse") for _, one in layers[path])
        if kinds[target] > 1:
            path = module_of(nodes[0]) or path
        elif both or layer < max(layers[path]):
            path = f"{path}.{layer[1]}"
        found |= {node.name: path for node in nodes if path}
    return found


def is_codebook(target: Any) -> bool:
    """Whether a node's target is an operator with weights in codebooks."""
    return isinstance(target, torch._ops.OpOverload) and str(target).startswith("gq.codebook_")


def argument_names(target: Any) -> list[str]:
    """What an operator calls its arguments."""
    return [one.name for one in target._schema.arguments]


def overridden(target: Any, args: tuple[Any, ...], activation: str | None) -> tuple[Any, ...]:
    """The arguments of a codebook layer with other activations, as ``build`` compiles it."""
    names = argument_names(target)
    grouped = "groups" in names and args[names.index("groups")] != 1
    if activation is None or grouped or "activation" not in names:
        return args
    at = names.index("activation")
    return (*args[:at], activation, *args[at + 1 :])


def _place(target: str) -> tuple[str, tuple[int, str]]:
    """The path that the indices at a target belong to, and the layer there, by number and name."""
    match = _INDICES.search(target)
    assert match is not None
    return target[: match.start()], (int(match[2] or 0), match[1] or "")
