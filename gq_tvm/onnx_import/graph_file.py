"""An ONNX file as graphs of nodes and arrays: read, checked, external data mapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from gq_tvm.errors import Error
from gq_tvm.onnx_functions import DOMAIN, INPUTS, Signature
from gq_tvm.onnx_functions.recognition import recognised
from gq_tvm.onnx_import.registry import MICROSOFT, STANDARD, Node, find

_MOST_PLACES = 4  # named for each operator in a refusal
_MOST_NODES = 1_000_000  # with all functions spelled out
_DEEPEST = 100  # functions within one another
# What the checker finds that is no reason to refuse a model: numbers of versions, outputs without
# a shape.
_ALLOWED = ("IR version", "ir_version", "opset", "version", "Field 'shape'", "Field 'elem_type'")


@dataclass(frozen=True)
class Input:
    """An input of a graph.

    Attributes:
        name: Its name.
        element: The element type, a number of ``onnx.TensorProto``.
        shape: Sizes: a number, a text that names one known at run time, or None for one without a
            name; None if not even the axes are known.
    """

    name: str
    element: int
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """A graph, of a model or within a node.

    Attributes:
        name: Its name.
        nodes: In an order in which they can be computed.
        arrays: Its initialisers, by name.
        inputs: Those that are no initialisers.
        outputs: Names of values.
    """

    name: str
    nodes: list[Node]
    arrays: dict[str, NDArray]
    inputs: list[Input]
    outputs: list[str]


def read(path: Path) -> Graph:
    """Read the graph of a model.

    Raises:
        Error: the file is missing or damaged, or has nodes that are not known; the text lists all
            of these.
    """
    if not path.is_file():
        raise Error(f"{path} does not exist; give the path of a file")
    model = _loaded(path)
    if not model.graph.output:
        raise Error(f"{path} holds no ONNX graph; write it again")
    _check_functions(path, model)
    del model  # the checker holds the file and what is in it once more
    _check(path)
    model = _loaded(path)
    try:
        ours = _written_here(model)
        model = _functions_inlined(model, ours)
        versions = {_domain(one.domain): one.version for one in model.opset_import}
        graph = _Reader(path, versions, ours).graph(model.graph)
    except Error:
        raise
    except Exception as failure:  # of the readers of single fields, of many classes
        raise Error(
            f"{path} is a damaged ONNX file ({_line(failure)}); write it again"
        ) from failure
    _check_known(path, graph)
    return graph


def _loaded(path: Path) -> Any:
    """The message that a file is, without external data."""
    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as failure:
        raise Error(f"{path} is a damaged ONNX file; write it again") from failure
    except OSError as failure:
        raise Error(f"{path} cannot be read ({failure.strerror})") from failure


def _check(path: Path) -> None:
    """ONNX's own checks, but for those in `_ALLOWED`."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as failure:
        why = _line(failure)
        if not any(word in str(failure) for word in _ALLOWED):
            raise Error(f"{path} is no valid ONNX model: {why}") from failure
    except Exception as failure:  # its own texts may be none
        raise Error(f"{path} is a damaged ONNX file; write it again") from failure


def _check_functions(path: Path, model: Any) -> None:
    """Refuse functions that call themselves, or that are too many nodes once they are spelled out.

    A function that calls another twice, and that another, makes a small file endless.
    """
    bodies = {(one.domain, one.name): one for one in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_ones: set[tuple[str, str]] = set()

    def size(key: tuple[str, str]) -> int:
        if key not in sizes:
            if key in open_ones or len(open_ones) > _DEEPEST:
                raise Error(f"{path} has a function {key[1]} that calls itself; write it again")
            open_ones.add(key)
            sizes[key] = total(bodies[key])
            open_ones.remove(key)
        return sizes[key]

    def total(holder: Any) -> int:
        called = [(node.domain, node.op_type) for node in _all_nodes(holder)]
        found = sum(1 + (size(key) if key in bodies else 0) for key in called)
        if found > _MOST_NODES:
            raise Error(f"{path} has more than {_MOST_NODES:,} nodes; export a smaller model")
        return found

    total(model.graph)
    for key in bodies:
        size(key)


def _written_here(model: Any) -> dict[str, dict[str, Signature]]:
    """The functions that are gq-tvm's own: by name, what each of their nodes calls, by its output.

    Their weights are initialisers of the file.
    """
    functions = {one.name: one for one in model.functions if one.domain == DOMAIN}
    sizes = {one.name: tuple(one.dims) for one in model.graph.initializer if _is_there(one)}
    found: dict[str, dict[str, Signature]] = {name: {} for name in functions}
    for node in _all_nodes(model.graph):
        if node.domain == DOMAIN and node.op_type in found:
            signature = recognised(node, functions[node.op_type], sizes)
            if signature is None:
                del found[node.op_type]
            else:
                found[node.op_type][node.output[0]] = signature
    return found


def _is_there(proto: Any) -> bool:
    """Whether a tensor has the bytes that its shape asks for, of 4 bits an element at least."""
    if proto.data_location == TensorProto.EXTERNAL:
        return True
    return prod(proto.dims) <= 2 * len(proto.raw_data)


def _functions_inlined(model: Any, kept: Collection[str]) -> Any:
    """The model with its own functions, and the standard's where we know none, spelled out.

    Args:
        model: It.
        kept: Functions of our domain that stay.
    """
    from onnx import inliner

    if any(one.domain != DOMAIN or one.name not in kept for one in model.functions):
        stay = [(DOMAIN, name) for name in kept]
        model = inliner.inline_selected_functions(model, stay, exclude=True)
    versions = {_domain(one.domain): one.version for one in model.opset_import}
    version = versions.get(STANDARD, 1)
    spelled = set()
    for proto in _all_nodes(model.graph):
        node = Node(proto.op_type, _domain(proto.domain), 0, "", (), ())
        if find(node) is None and not node.domain:
            try:
                schema: Any = onnx.defs.get_schema(proto.op_type, version, proto.domain)
            except Exception:
                continue
            if schema.has_function or schema.has_context_dependent_function:
                spelled.add((proto.domain, proto.op_type))
    if spelled:
        model = inliner.inline_selected_functions(
            model, sorted(spelled), exclude=False, inline_schema_functions=True
        )
    return model


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _all_nodes(inner)


def nodes_of(graph: Graph) -> Iterator[Node]:
    """All nodes, those of graphs within nodes too."""
    for node in graph.nodes:
        yield node
        for value in node.attributes.values():
            if isinstance(value, Graph):
                yield from nodes_of(value)


def _check_known(path: Path, graph: Graph) -> None:
    """Refuse all nodes that are not known, at once."""
    missing: dict[str, list[str]] = {}
    for node in nodes_of(graph):
        if find(node) is None:
            spelled = f"{node.domain}.{node.operator}" if node.domain else node.operator
            missing.setdefault(spelled, []).append(node.name)
    if missing:
        listed = "; ".join(f"{name} {_places(nodes)}" for name, nodes in missing.items())
        raise Error(
            f"{path} has nodes that are not known here: {listed}; replace them by others before "
            "the export, or export the model with torch.export"
        )


def _places(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_PLACES} more" if len(names) > _MOST_PLACES else ""
    times = f"{len(names)} times, " if len(names) > 1 else ""
    return f"({times}{', '.join(names[:_MOST_PLACES])}{more})"


class _Reader:
    """Reads graphs of one model.

    Args:
        path: Of the model: external data lie beside it.
        versions: Of each domain.
        ours: What nodes of our domain call, by the name of the function and their first output.
    """

    def __init__(
        self,
        path: Path,
        versions: Mapping[str, int],
        ours: Mapping[str, Mapping[str, Signature]],
    ) -> None:
        self._path = path
        self._versions = versions
        self._ours = ours
        self._names: Counter[str] = Counter()

    def graph(self, proto: Any) -> Graph:
        """A graph as data."""
        if proto.sparse_initializer:
            name = proto.sparse_initializer[0].values.name
            raise Error(f"{self._path} keeps {name} as a sparse tensor; store it as a dense one")
        arrays = {one.name: self._array(one, keep=False) for one in proto.initializer}
        nodes = [self._node(one) for one in proto.node]
        inputs = [self._input(one) for one in proto.input if one.name not in arrays]
        return Graph(proto.name, nodes, arrays, inputs, [one.name for one in proto.output])

    def _node(self, proto: Any) -> Node:
        domain = _domain(proto.domain)
        base = proto.name or next((one for one in proto.output if one), proto.op_type)
        self._names[base] += 1
        name = base if self._names[base] == 1 else f"{base}#{self._names[base]}"
        ours = self._ours.get(proto.op_type, {}).get(next(iter(proto.output), ""))
        if domain == DOMAIN and ours is not None:
            operator, attributes = ours.operator, {**ours.attributes, INPUTS: ours.inputs}
        else:
            operator = proto.op_type
            attributes = {one.name: self._attribute(one) for one in proto.attribute}
        return Node(
            operator,
            domain,
            self._versions.get(domain, 1),
            name,
            tuple(proto.input),
            tuple(proto.output),
            attributes,
        )

    def _attribute(self, proto: Any) -> Any:
        if proto.type == AttributeProto.TENSOR:
            return self._array(proto.t)
        if proto.type == AttributeProto.GRAPH:
            return self.graph(proto.g)
        value = helper.get_attribute_value(proto)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if proto.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            return list(value)
        if proto.type == AttributeProto.STRINGS:
            return [one.decode("utf-8", "replace") for one in value]
        return value

    def _input(self, proto: Any) -> Input:
        kind = proto.type.tensor_type
        if not proto.type.HasField("tensor_type"):
            raise Error(f"input {proto.name} of {self._path} is no tensor; give tensors only")
        shape: tuple[int | str | None, ...] | None = None
        if kind.HasField("shape"):
            shape = tuple(map(_size, kind.shape.dim))
        return Input(proto.name, kind.elem_type, shape)

    def _array(self, proto: Any, keep: bool = True) -> NDArray:
        """A tensor as an array; its bytes leave the message unless it is kept."""
        if proto.data_type == TensorProto.STRING:
            return np.array([one.decode("utf-8", "replace") for one in proto.string_data])
        if proto.data_location == TensorProto.EXTERNAL:
            return self._mapped(proto)
        array = numpy_helper.to_array(proto)
        if not keep:
            proto.ClearField("raw_data")
        return array

    def _mapped(self, proto: Any) -> NDArray:
        told = {one.key: one.value for one in proto.external_data}
        file = (self._path.parent / told.get("location", "")).resolve()
        if not file.is_relative_to(self._path.parent.resolve()) or not file.is_file():
            raise Error(
                f"{self._path} keeps {proto.name} in {told.get('location')!r}, which is no file "
                "beside it; put it there"
            )
        kind = helper.tensor_dtype_to_np_dtype(proto.data_type)
        count = prod(proto.dims)
        packed = _PACKED.get(proto.data_type)
        size = -(-count * packed // 8) if packed else count * kind.itemsize
        offset = int(told.get("offset", 0))
        if min(proto.dims, default=0) < 0 or not 0 <= offset <= file.stat().st_size - size:
            raise Error(f"{file} ends before {proto.name} does; copy it again")
        if not count:
            return np.empty(tuple(proto.dims), kind)
        mapped = np.memmap(file, np.uint8, "r", offset, (size,))
        if packed:
            inner = TensorProto(dims=proto.dims, data_type=proto.data_type, raw_data=bytes(mapped))
            return numpy_helper.to_array(inner)
        return np.asarray(mapped).view(kind).reshape(tuple(proto.dims))


_PACKED = {
    getattr(TensorProto, name): bits
    for name, bits in (("UINT4", 4), ("INT4", 4), ("FLOAT4E2M1", 4), ("UINT2", 2), ("INT2", 2))
    if hasattr(TensorProto, name)
}


def _size(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value > 0 else None
    return dim.dim_param if dim.dim_param.strip("? ") else None


def _domain(name: str) -> str:
    return STANDARD if name in ("", "ai.onnx") else name


def _line(failure: BaseException) -> str:
    lines: Iterable[str] = str(failure).strip().splitlines()
    return next(iter(lines), type(failure).__name__)[:200]


__all__ = ["MICROSOFT", "Graph", "Input", "nodes_of", "read"]
