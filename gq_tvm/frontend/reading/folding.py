"""What a program computes of its constants alone, computed once by PyTorch.

Packed codes are taken apart by shifts and masks, of which TVM lacks some. So integers are folded,
but for those only cast or seen in another shape; of floats, what TVM lacks. Other floats are left:
multiplied out, a codebook is a float weight (see ``passes.relax_tools.constants``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.utils import _pytree

_aten = torch.ops.aten

_AS_THEY_ARE = {
    *(_aten._to_copy.default, _aten.clone.default, _aten.alias.default, _aten.detach.default),
    *(_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.expand.default),
    *(_aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.unsqueeze.default),
    *(_aten.squeeze.dim, _aten.squeeze.dims),
}
_SMALL = 4096  # elements; more are kept as bytes where these hold them


def fold_constants(program: ExportedProgram, known: Collection[str]) -> None:
    """Put constants in the place of what is computed of constants.

    Args:
        program: What ``run_decompositions`` returned; it is changed.
        known: The operators TVM translates, by name.
    """
    constants = _Constants(program)
    live: set[fx.Node] = set()
    for node in reversed(list(program.graph.nodes)):
        if node in constants and node not in live:
            continue  # only what is folded reads it
        if node in constants and _is_folded(node, known):
            constants.replace(node)
        else:
            live |= set(node.all_input_nodes)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _is_folded(node: fx.Node, known: Collection[str]) -> bool:
    value, target = node.meta.get("val"), node.target
    # What takes no tensor makes one, as TVM does too.
    if not isinstance(value, torch.Tensor) or not node.all_input_nodes or target in _AS_THEY_ARE:
        return False
    lacking = getattr(target, "__name__", "") not in known
    return lacking or not (value.is_floating_point() or value.is_complex())


class _Constants:
    """The nodes of a program that depend on no input."""

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._held: dict[fx.Node, tuple[str, torch.Tensor]] = {}
        self._computed: dict[fx.Node, fx.Node | None] = {}
        self._nodes: set[fx.Node] = set()
        tensors = {**program.state_dict, **program.constants}
        specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        mutated = set(program.graph_signature.buffers_to_mutate.values())
        for node in program.graph.nodes:
            if node.op == "placeholder":
                target = specs[node.name].target
                held = tensors.get(target) if target is not None else None
                if isinstance(held, torch.Tensor) and target not in mutated:
                    self._held[node] = target, held
                    self._nodes.add(node)
            elif _is_plain(node) and all(one in self._nodes for one in node.all_input_nodes):
                self._nodes.add(node)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._nodes

    def sources(self, node: fx.Node) -> list[tuple[str, torch.Tensor]]:
        """The constants a node is computed from, with what they are called."""
        found, waiting, seen = [], [node], {node}
        while waiting:
            one = waiting.pop()
            if one in self._held:
                found.append(self._held[one])
            waiting += [each for each in one.all_input_nodes if each not in seen]
            seen |= set(one.all_input_nodes)
        return found

    def value(self, node: fx.Node) -> Any:
        """What a node is."""
        if node in self._held:
            return self._held[node][1].detach()
        args, kwargs = _pytree.tree_map(
            lambda one: self.value(one) if isinstance(one, fx.Node) else one,
            (node.args, node.kwargs),
        )
        target: Any = node.target
        with torch.no_grad():
            return target(*args, **kwargs)

    def replace(self, node: fx.Node) -> None:
        """Put what a node is in its place, called as the largest constant it is computed from."""
        program, value = self._program, self.value(node).contiguous()
        sources = self.sources(node)
        name = max(sources, key=lambda one: one[1].numel())[0] if sources else ""
        target = f"{name}_{node.name}"
        wide, kept = value.dtype, value
        fits = wide in (torch.int64, torch.int32) and value.numel() > _SMALL
        if fits and 0 <= int(value.min()) <= int(value.max()) < 256:
            kept = value.to(torch.uint8)
        specs = program.graph_signature.input_specs
        places = list(program.graph.find_nodes(op="placeholder"))
        at = next(
            (n for n, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT), len(specs)
        )
        before = places[at] if at < len(places) else places[-1].next
        with program.graph.inserting_before(before):
            placeholder = program.graph.placeholder(f"c_{node.name}")
        placeholder.target = placeholder.name
        mode = node.meta["val"].fake_mode
        placeholder.meta["val"] = mode.from_tensor(kept, static_shapes=True)
        spec = InputSpec(
            InputKind.CONSTANT_TENSOR, TensorArgument(placeholder.name), target, persistent=None
        )
        specs.insert(at, spec)
        program.constants[target] = kept
        self._held[placeholder] = self._held[node] = target, value
        self._nodes.add(placeholder)
        replacement = placeholder
        if kept is not value:
            with program.graph.inserting_before(node):
                replacement = program.graph.call_function(
                    _aten._to_copy.default, (placeholder,), {"dtype": wide}
                )
            replacement.meta = dict(node.meta)
            self._nodes.add(replacement)
        node.replace_all_uses_with(replacement)
        program.graph.erase_node(node)


def _is_plain(node: fx.Node) -> bool:
    """Whether an operator computes the same of the same, and changes nothing."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "prims"):
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags
