"""What a layer of a program is called: as its weight, or as the module that computes with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from torch import fx

from gq_tvm.exported.matching import Match

# What PyTorch keeps a weight as that a norm computes, and the weight.
_COMPUTED = (
    (re.compile(r"^(.*\b)parametrizations\.(\w+)\.original\d*$"), r"\1\2"),
    (re.compile(r"^(.*\b\w+)_(?:g|v|orig)$"), r"\1"),
)


def module_of(node: fx.Node) -> str:
    """The module a node is in, by the exporter's name; "" is the model itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return re.sub(r"@\d+$", "", path) if isinstance(path, str) else ""


def classes(nodes: Iterable[fx.Node]) -> dict[str, str]:
    """The names of the classes of modules, by path, as far as nodes tell."""
    found = {}
    for node in nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
            found[str(path)] = name.rpartition(".")[2]
    return found


def name_layer(match: Match, shared: bool, taken: Collection[str]) -> str:
    """A path for a layer.

    Args:
        match: The layer.
        shared: Whether another layer has its weight: then it is called as its module.
        taken: Names, of tensors and layers, that are no longer free.
    """
    attribute, weight = match.weights[0]
    weights = {one.targets[0]: name for name, one in match.weights if one.targets}
    plain = _plain if weight.computed else str
    whole = plain(weight.targets[0])
    prefix, _, last = whole.rpartition(".")
    own = all(plain(target) == _join(prefix, name) for target, name in weights.items())
    around = module_of(match.node)
    wishes = []
    if shared and around:
        wishes.append(around)
    if own or last == attribute:
        wishes.append(prefix)
    wishes.append(whole)
    free = [wish for wish in wishes if wish and _is_free(wish, match, taken)]
    if free:
        return free[0]
    number = 1
    while not _is_free(f"{whole}_{number}", match, taken):
        number += 1
    return f"{whole}_{number}"


def _plain(target: str) -> str:
    for pattern, weight in _COMPUTED:
        target = pattern.sub(weight, target)
    return target


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _is_free(path: str, match: Match, taken: Collection[str]) -> bool:
    names = [path, *(f"{path}.{name}" for name, _ in match.weights)]
    return not any(name in taken for name in names)
