"""The operators of ONNX known here: one function for each, in files by family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gq_tvm.errors import Error

# Domains that are one: the standard's own is spelled in two ways.
STANDARD, MICROSOFT = "", "com.microsoft"


@dataclass(frozen=True)
class Node:
    """A node of a graph.

    Attributes:
        operator: Its operator.
        domain: Of the operator: `STANDARD`, `MICROSOFT` or another.
        version: Of the domain that the model is written for.
        name: Its name, or that of its first output.
        inputs: Names of values; "" is one left out.
        outputs: Names of values; "" is one nobody wants.
        attributes: Python numbers, texts, lists, arrays and graphs.
    """

    operator: str
    domain: str
    version: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def refuse(self, why: str) -> Error:
        """The refusal of this node."""
        return Error(f"node {self.name} ({self.operator}) {why}")


Function = Callable[..., Any]


@dataclass(frozen=True)
class Operator:
    """How an operator is computed.

    Attributes:
        function: Takes the node and its inputs, None for one left out; gives a value or a tuple of
            values.
        host: Which inputs it wants as `values.Host`: sizes, axes and the like.
        either: Whether it takes the other inputs as they come, tensors or `values.Host`.
        statistics: Which inputs were counted in training, not learnt: constants are buffers.
    """

    function: Function
    host: frozenset[int] = frozenset()
    either: bool = False
    statistics: frozenset[int] = frozenset()


OPERATORS: dict[tuple[str, str], Operator] = {}
ON_HOST: dict[str, Function] = {}


def operator(
    *names: str,
    host: tuple[int, ...] = (),
    either: bool = False,
    statistics: tuple[int, ...] = (),
    domain: str = STANDARD,
) -> Callable[[Function], Function]:
    """Register a function as operators."""

    def register(function: Function) -> Function:
        for name in names:
            OPERATORS[domain, name] = Operator(
                function, frozenset(host), either, frozenset(statistics)
            )
        return function

    return register


def on_host(*names: str) -> Callable[[Function], Function]:
    """Register how operators compute where all they are given is known while tracing."""

    def register(function: Function) -> Function:
        ON_HOST.update(dict.fromkeys(names, function))
        return function

    return register


def find(node: Node) -> Operator | None:
    """The operator of a node, None if it is not known."""
    return OPERATORS.get((node.domain, node.operator))
