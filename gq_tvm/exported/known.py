"""What of a program is known before it runs: its parameters, and what is computed from these."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

_aten = torch.ops.aten
_T = "T"  # of a key: the transpose of what the rest is the key of
_SWAPS = {
    _aten.t.default: (),
    _aten.numpy_T.default: (),
    _aten.mT.default: (),
    _aten.transpose.int: ([0, 1], [1, 0]),
    _aten.permute.default: ([1, 0],),
}
_UNCHANGED = (_aten.detach.default, _aten.alias.default, _aten.clone.default)


@dataclass(frozen=True)
class Known:
    """A value that no input changes.

    Attributes:
        key: The same for the same computation.
        targets: The parameters in it, in order.
        shape: Of the tensor.
    """

    key: Hashable
    targets: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def target(self) -> str | None:
        """The parameter it is, None if it is computed or turned."""
        is_parameter = isinstance(self.key, tuple) and self.key[:1] == ("parameter",)
        return self.targets[0] if is_parameter else None

    @property
    def computed(self) -> bool:
        """Whether it is neither a parameter nor the transpose of one."""
        return self.target is None and self.transposed().target is None

    def transposed(self) -> Known:
        """The matrix, its axes swapped."""
        turned = isinstance(self.key, tuple) and self.key[:1] == (_T,)
        key = self.key[1] if turned and isinstance(self.key, tuple) else (_T, self.key)
        return Known(key, self.targets, self.shape[::-1])


class Values:
    """The known values of a program.

    Args:
        program: What ``torch.export.export`` returned.
    """

    def __init__(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        changed = {*signature.buffers_to_mutate.values(), *_changed_in_place(program)}
        self._tensors: dict[str, tuple[str, str, Tensor]] = {}  # by placeholder
        for spec in signature.input_specs:
            value = program.state_dict.get(spec.target or "", program.constants.get(spec.target))
            if isinstance(value, Tensor) and spec.target not in changed:
                kind = "parameter" if spec.kind is InputKind.PARAMETER else "other"
                self._tensors[spec.arg.name] = kind, str(spec.target), value
        self._known: dict[fx.Node, Known | None] = {}

    def of(self, value: Any) -> Known | None:
        """What an argument is known to be, None if it hangs on an input or is no tensor."""
        if not isinstance(value, fx.Node):
            return None
        if value not in self._known:
            self._known[value] = self._look(value)
        return self._known[value]

    def tensor(self, known: Known) -> Tensor:
        """The value; a parameter is itself."""
        for node, other in self._known.items():
            if other == known:
                value = self._value(node)
                return value if known.target else value.contiguous()
            if other is not None and len(other.shape) == 2 and other.transposed() == known:
                return self._value(node).t().contiguous()
        raise KeyError(known.key)

    def _look(self, node: fx.Node) -> Known | None:
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))
        if not all(isinstance(size, int) for size in shape):
            return None
        if node.op == "placeholder":
            if node.name not in self._tensors:
                return None
            kind, target, _ = self._tensors[node.name]
            return Known((kind, target), (target,) if kind == "parameter" else (), shape)
        if node.op != "call_function" or not _is_pure(node.target):
            return None
        inside = [self.of(one) for one in node.all_input_nodes]
        if not inside or any(one is None for one in inside):
            return None
        first = inside[0]
        assert first is not None
        if node.target in _UNCHANGED and len(inside) == 1:
            return first
        if len(first.shape) == 2 and _swaps(node):
            return first.transposed()
        keys = dict(zip(node.all_input_nodes, (one.key for one in inside if one), strict=True))
        targets = tuple(dict.fromkeys(t for one in inside if one for t in one.targets))
        key = (str(node.target), _frozen(node.args, keys), _frozen(node.kwargs, keys))
        return Known(key, targets, shape)

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._tensors[node.name][2]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)
        assert callable(node.target)
        with torch.no_grad():
            return node.target(*args, **kwargs)


def _is_pure(target: Any) -> bool:
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags


def _swaps(node: fx.Node) -> bool:
    """Whether a node swaps the two axes of a matrix."""
    if node.target not in _SWAPS:
        return False
    orders = _SWAPS[node.target]
    given = node.args[1] if len(node.args) == 2 else list(node.args[1:])
    if not orders:
        return True
    return isinstance(given, list) and [axis % 2 for axis in given] in orders


def _frozen(value: Any, keys: dict[fx.Node, Hashable]) -> Hashable:
    if isinstance(value, fx.Node):
        return keys[value]
    if isinstance(value, list | tuple):
        return tuple(_frozen(one, keys) for one in value)
    if isinstance(value, dict):
        return tuple((name, _frozen(one, keys)) for name, one in sorted(value.items()))
    return repr(value)


def _changed_in_place(program: ExportedProgram) -> Iterator[str]:
    """The tensors that operators write to."""
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        for one in node.all_input_nodes:
            if targets.get(one.name):
                yield str(targets[one.name])
