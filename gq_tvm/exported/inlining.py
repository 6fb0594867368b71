"""A function in the place of a node: traced, and its operators put into the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree

_KEPT = ("nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn", "from_node")


def inline(
    graph: fx.Graph, place: fx.Node, function: Callable[..., Any], arguments: Sequence[fx.Node]
) -> list[fx.Node]:
    """Put what a function does before a node.

    Args:
        graph: Of an exported program.
        place: The node; it stays, and is said to be where the operators come from.
        function: Takes as many tensors as there are arguments, gives tensors.
        arguments: What it is given.

    Returns:
        Its results.
    """
    examples = [node.meta["val"] for node in arguments]
    with torch.no_grad():
        traced = make_fx(function, pre_dispatch=True)(*examples)
    traced.graph.eliminate_dead_code()
    about = {key: place.meta[key] for key in _KEPT if key in place.meta}
    found: dict[fx.Node, fx.Node] = {}
    given = iter(arguments)
    with graph.inserting_before(place):
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                found[node] = next(given)
            elif node.op == "call_function":
                found[node] = graph.node_copy(node, found.__getitem__)
                found[node].meta = {"val": node.meta["val"], **about}
            elif node.op == "get_attr":
                raise ValueError(f"the function holds a tensor of its own: {node.target}")
    (results,) = traced.graph.output_node().args
    return [found[one] for one in _pytree.tree_leaves(results)]


def replace(graph: fx.Graph, node: fx.Node, results: Sequence[fx.Node]) -> None:
    """Let results of `inline` stand for a node, or for the items that are taken of it."""
    users = [one for one in node.users if one.target is operator.getitem]
    if users and len(users) == len(node.users):
        pairs = [(user, results[int(str(user.args[1]))]) for user in users]
    else:
        pairs = [(node, results[0])]
    for old, new in pairs:
        _stand_for(graph, old, new)
    if node not in [old for old, _ in pairs]:
        graph.erase_node(node)


def _stand_for(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    name = old.name
    graph.erase_node(old)
    if new.op == "call_function":
        new.name = name  # the signature of a program knows its outputs by it


def copied(program: ExportedProgram) -> fx.Graph:
    """The graph of a program, to be changed; nodes have the names they had."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(program.graph, copies))
    for old, new in copies.items():
        new.name = old.name  # copying spares the names of Python's own, such as `input`
    graph.output_node().meta = dict(program.graph.output_node().meta)
    return graph


def rebuilt(
    program: ExportedProgram,
    graph: fx.Graph,
    signature: ExportGraphSignature | None = None,
    state: dict[str, Any] | None = None,
) -> ExportedProgram:
    """The program with another graph, and what is said of its inputs and tensors."""
    graph.lint()
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=signature or program.graph_signature,
        state_dict=program.state_dict if state is None else state,
        range_constraints=program.range_constraints,
        module_call_graph=[
            one for one in program.module_call_graph if one.fqn == "" or not one.signature
        ],
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )
