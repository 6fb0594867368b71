"""A graph as a PyTorch module: constants folded, a layer of PyTorch's for each node that is one.

Folding is running: a node that is given nothing but constants is computed once, here. Weights in
codebooks are kept as such (`lookup`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gq_tvm.errors import Error
from gq_tvm.onnx_import import layers, lookup
from gq_tvm.onnx_import.compute import compute, guarded, refusing
from gq_tvm.onnx_import.control import CONTROL
from gq_tvm.onnx_import.graph_file import Graph
from gq_tvm.onnx_import.limits import MOST_FOLDED, Limited, TooLarge
from gq_tvm.onnx_import.lookup import Lookup
from gq_tvm.onnx_import.registry import Node, find
from gq_tvm.onnx_import.values import Host, dtype_of, from_numpy, host, is_small, tensor_of

Constant = NDArray | Lookup
_MOST_GROWTH = 1 << 20  # elements of a folded result that may be larger than what it is made of
_KEPT = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}


class GraphModule(nn.Module):
    """A graph.

    Its inputs are the graph's, in their order; its result is a tensor or a tuple.

    Args:
        graph: It.
        fixed: Constants for inputs, which are no inputs then.
    """

    def __init__(self, graph: Graph, fixed: Mapping[str, NDArray] | None = None) -> None:
        super().__init__()
        fixed = dict(fixed or {})
        self.inputs = [one for one in graph.inputs if one.name not in fixed]
        self._outputs = graph.outputs
        self._root = _Body(graph, fixed, _Paths(self))

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph."""
        names = [one.name for one in self.inputs]
        results = self._root(dict(zip(names, inputs, strict=True)))
        for name, one in zip(self._outputs, results, strict=True):
            if one is None:
                named = f"the output {name}" if name else "an output without a name"
                raise Error(f"the graph has {named} that nothing computes; export it again")
        tensors = tuple(tensor_of(one) for one in results)
        return tensors[0] if len(tensors) == 1 else tensors


class _Body:
    """The steps of a graph, or of a graph within a node; its modules are the model's."""

    def __init__(self, graph: Graph, constants: Mapping[str, Constant], paths: _Paths) -> None:
        self._graph = graph
        self._paths = paths
        self._constants: dict[str, Constant] = {**constants, **graph.arrays}
        for one in graph.inputs:
            if one.name not in constants or paths.depth:
                self._constants.pop(one.name, None)
        self._tensors: dict[str, str] = {}
        self._steps: list[tuple[Node, Callable[..., tuple[Any, ...]]]] = []
        uses = Counter(name for node in graph.nodes for name in node.inputs)
        uses.update(graph.outputs)
        uses.update(name for node in graph.nodes for name in _outer(node))
        nodes, done = graph.nodes, set[int]()
        users = {name: (at, node) for at, node in enumerate(nodes) for name in node.inputs if name}
        for at, node in enumerate(nodes):
            if at in done:
                continue
            self._check(node)
            if node.operator in CONTROL and not node.domain:
                self._control(node)
                continue
            with refusing(node):
                folded = self._folded(node)
                if folded is not None:
                    self._constants |= folded
                    continue
                later, behind = users.get(node.outputs[0], (-1, None))
                bias = None
                if behind is not None and uses[node.outputs[0]] == 1:
                    bias = self._bias(node, behind)
                if bias is not None and self._layer(node, bias, behind):
                    done.add(later)
                elif not self._layer(node, None, None):
                    self._plain(node)

    def __call__(self, env: dict[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """The outputs, given the values seen from here and the inputs of a graph in a node."""
        if inputs:
            env = {
                **env,
                **dict(zip((one.name for one in self._graph.inputs), inputs, strict=True)),
            }
        for node, step in self._steps:
            results = step(env)
            env.update(
                (name, one) for name, one in zip(node.outputs, results, strict=False) if name
            )
        return tuple(self._value(name, env, None) for name in self._graph.outputs)

    def _check(self, node: Node) -> None:
        if not any(node.outputs):
            raise node.refuse("has no output; export the model again")
        for name in node.inputs:
            if isinstance(self._constants.get(name), np.ndarray):
                array = self._constants[name]
                assert isinstance(array, np.ndarray)
                if array.dtype.kind == "U":
                    raise node.refuse("takes texts; tensors hold numbers only")

    def _value(self, name: str, env: Mapping[str, Any], place: int | None, node: Any = None) -> Any:
        """A value a step is given."""
        if not name:
            return None
        if name in env:
            return env[name]
        if name not in self._constants:
            raise Error(f"the graph asks for {name}, which nothing computes; export it again")
        constant = self._constants[name]
        wants_host = node is not None and place in find(node).host  # type: ignore[union-attr]
        if isinstance(constant, np.ndarray) and (wants_host or is_small(constant)):
            return _as_host(constant)
        return self._paths.tensor(name, constant)

    def _control(self, node: Node) -> None:
        inner = {
            name: _Body(one, self._constants, self._paths.inside(node.name, name))
            for name, one in node.attributes.items()
            if isinstance(one, Graph)
        }

        failed: set[str] = set()

        def run(name: str, env: dict[str, Any], given: tuple[Any, ...]) -> tuple[Any, ...]:
            if name in failed:  # torch.export loses its way where a module raises
                raise node.refuse(f"has a {name} that does not run at these sizes")
            try:
                return inner[name](dict(env), *given)
            except Error:
                failed.add(name)
                raise

        def step(env: dict[str, Any]) -> tuple[Any, ...]:
            if not torch.compiler.is_exporting():
                failed.clear()
            bodies = {name: lambda *given, name=name: run(name, env, given) for name in inner}
            values = [self._value(name, env, None) for name in node.inputs]
            with refusing(node):
                return CONTROL[node.operator](node, bodies, *values)

        self._steps.append((node, step))

    def _plain(self, node: Node) -> None:
        known = find(node)
        assert known is not None
        for place, name in enumerate(node.inputs):
            constant = self._constants.get(name)
            small = isinstance(constant, np.ndarray) and is_small(constant)
            if constant is not None and not small and place not in known.host:
                self._paths.tensor(name, constant, place not in known.statistics)
        module = self._paths.add(node.name, _Step(node))

        def step(env: dict[str, Any]) -> tuple[Any, ...]:
            values = [self._value(name, env, at, node) for at, name in enumerate(node.inputs)]
            return module(*values)

        self._steps.append((node, step))

    def _layer(self, node: Node, bias: NDArray | None, behind: Node | None) -> bool:
        """Make a node, and the sum behind it, a layer; False if it is none."""
        constants = [self._constants.get(name) for name in node.inputs]
        made = layers.make(node, constants, bias)
        if made is None:
            return False
        weight = node.inputs[made.weight]
        path = weight.removesuffix(".weight") if weight.endswith(".weight") else node.name
        module = self._paths.add(path, made.module)
        if behind is not None:
            node = replace(node, outputs=behind.outputs)

        def step(env: dict[str, Any]) -> tuple[Any, ...]:
            given = [self._value(node.inputs[at], env, at) for at in made.inputs]
            tensors = [None if one is None else tensor_of(one) for one in given]
            result = guarded(node, module, *tensors)
            return result if isinstance(result, tuple) else (result,)

        self._steps.append((node, step))
        return True

    def _bias(self, node: Node, behind: Node) -> NDArray | None:
        """The constant that an Add behind a product adds to each row of it."""
        if behind.operator != "Add" or behind.domain or node.operator != "MatMul":
            return None
        other = [name for name in behind.inputs if name != node.outputs[0]]
        constant = self._constants.get(other[0]) if len(other) == 1 else None
        return constant if isinstance(constant, np.ndarray) and constant.ndim == 1 else None

    def _folded(self, node: Node) -> dict[str, Constant] | None:
        """What a node gives that hangs on constants alone, None if it does not."""
        names = [name for name in node.inputs if name]
        if node.operator in _KEPT or any(name not in self._constants for name in names):
            return None
        given = [self._constants.get(name) for name in node.inputs]
        packed = lookup.folded(node, given)
        if packed is not None:
            return {node.outputs[0]: packed}
        known = find(node)
        assert known is not None
        arrays = [one.dense() if isinstance(one, Lookup) else one for one in given]
        values = [
            None
            if one is None
            else _as_host(one)
            if at in known.host or is_small(one)
            else from_numpy(one)
            for at, one in enumerate(arrays)
        ]
        try:
            with torch.no_grad(), Limited(MOST_FOLDED):
                results = compute(node, values)
                found = {
                    name: one.array if isinstance(one, Host) else _to_numpy(one)
                    for name, one in zip(node.outputs, results, strict=False)
                    if name
                }
        except TooLarge:
            return None
        largest = max((one.size for one in arrays if one is not None), default=0)
        if any(one.size > max(_MOST_GROWTH, 2 * largest) for one in found.values()):
            return None
        return dict(found)


class _Step(nn.Module):
    """A node that is no layer."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Its outputs."""
        return compute(self._node, values)


class _Paths:
    """Where the modules and tensors of a model lie, named as its nodes and initialisers are.

    Args:
        root: The model's module.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._prefix = ""
        self._tensors: dict[int, tuple[Constant, str, str]] = {}
        self._leaves: set[str] = set()
        self._inner: set[str] = set()
        self.depth = 0

    def inside(self, node: str, graph: str) -> _Paths:
        """For a graph within a node."""
        inner = _Paths(self._root)
        inner._prefix = f"{self._prefix}{node}/{graph}/"
        inner._tensors, inner._leaves, inner._inner = self._tensors, self._leaves, self._inner
        inner.depth = self.depth + 1
        return inner

    def add(self, name: str, module: nn.Module) -> nn.Module:
        """Put a module at the path that a name is."""
        path = self._free(f"{self._prefix}{name}")
        parent, last = self._parent(path)
        parent.add_module(last, module)
        return module

    def tensor(self, name: str, constant: Constant, learnt: bool = True) -> Tensor:
        """A constant as a parameter, or a buffer if it was not learnt or holds no floats."""
        if id(constant) not in self._tensors:
            array = constant.dense() if isinstance(constant, Lookup) else constant
            value = from_numpy(array)
            path = self._free(name)
            parent, last = self._parent(path)
            if learnt and value.is_floating_point():
                parent.register_parameter(last, nn.Parameter(value))
            else:
                parent.register_buffer(last, value)
            self._tensors[id(constant)] = constant, path.rpartition(".")[0], last
        _, module, last = self._tensors[id(constant)]
        return getattr(self._root.get_submodule(module), last)

    def _free(self, name: str) -> str:
        """A path of identifiers that is no module's yet, and goes through none that is a layer."""
        parts = [re.sub(r"\W", "_", one) for one in re.split(r"[./]|::", name)]
        parts = [f"_{one}" if one[0].isdigit() else one for one in parts if one] or ["node"]
        parts = [f"{one}_" if hasattr(nn.Module, one) or one in _TAKEN else one for one in parts]
        if any(".".join(parts[:n]) in self._leaves for n in range(1, len(parts))):
            parts = ["_".join(parts)]
        path, number = ".".join(parts), 1
        while path in self._leaves or path in self._inner:
            number += 1
            path = f"{'.'.join(parts)}_{number}"
        self._leaves.add(path)
        self._inner |= {".".join(parts[:n]) for n in range(1, len(parts))}
        return path

    def _parent(self, path: str) -> tuple[nn.Module, str]:
        module, (*above, last) = self._root, path.split(".")
        for name in above:
            if name not in module._modules:
                module.add_module(name, nn.Module())
            inner = module._modules[name]
            assert inner is not None
            module = inner
        return module, last


_TAKEN = {"inputs", "training", "forward"}


def _as_host(array: NDArray) -> Host:
    return host(array, dtype_of(array))


def _to_numpy(value: Tensor) -> NDArray:
    if value.dtype == torch.bfloat16:
        import ml_dtypes

        return value.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.detach().contiguous().numpy()


def _outer(node: Node) -> Sequence[str]:
    """What graphs within a node ask of those around it (and their own names)."""
    names: list[str] = []
    for value in node.attributes.values():
        if isinstance(value, Graph):
            names += value.outputs
            for inner in value.nodes:
                names += [*inner.inputs, *_outer(inner)]
    return names
