"""What cannot be compiled is refused before it is translated, in words that name its place."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from gq_tvm.errors import Error
from gq_tvm.frontend.places import line_of, module_named

_DTYPES = (  # of inputs and outputs
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.float32, torch.float64),
)
_MOST_MODULES = 4  # named in a refusal


def check_inputs(program: ExportedProgram, name: str) -> None:
    """Refuse inputs that are no tensors."""
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, TensorArgument):
            raise Error(
                f"input {spec.arg.name!r} of program {name} is not a tensor; export the model with "
                "tensor inputs only"
            )


def check_dtypes(program: ExportedProgram, name: str) -> None:
    """Refuse inputs and outputs of dtypes no caller could give or take, and weights TVM lacks."""
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = [(f"input {one!r}", values.get(str(one))) for one in signature.user_inputs]
    taken = [
        (f"output {number}", values.get(str(one)))
        for number, one in enumerate(signature.user_outputs)
    ]
    kept = [
        (f"weight {spec.target!r}", values.get(spec.arg.name))
        for spec in signature.input_specs
        if spec.target and getattr(values.get(spec.arg.name), "dtype", None) != torch.bfloat16
    ]
    for what, value in given + taken + kept:
        if isinstance(value, torch.Tensor) and value.dtype not in _DTYPES:
            dtype = str(value.dtype).removeprefix("torch.")
            if value.dtype.is_complex:
                cure = "use torch.view_as_real and torch.view_as_complex there"
            else:
                cure = "make it float32 there and cast it inside the model"
            raise Error(f"{what} of program {name} is {dtype}, which the runtimes lack; {cure}")


def check_state(program: ExportedProgram, name: str) -> None:
    """Refuse programs that change what they are given: a compiled function only returns."""
    signature = program.graph_signature
    for what, changed in (
        ("buffer", signature.buffers_to_mutate),
        ("input", signature.user_inputs_to_mutate),
    ):
        for target in changed.values():
            raise Error(
                f"program {name} changes its {what} {target!r} in place, which a compiled function "
                "cannot; take the state as an input and return it as an output"
            )


def check_operators(program: ExportedProgram, name: str, known: Collection[str]) -> None:
    """Refuse the operators that have no converter, all of them at once."""
    missing: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target.__name__ not in known:
            operator = isinstance(node.target, torch._ops.OpOverload)
            named = str(node.target) if operator else node.target.__name__
            missing.setdefault(named, []).append(node)
    if missing:
        listed = "; ".join(f"{op} {_places(nodes)}" for op, nodes in missing.items())
        raise Error(
            f"program {name} uses operators that cannot be translated: {listed}; replace them by "
            "supported ones"
        )


def _places(nodes: list[fx.Node]) -> str:
    """How often an operator is called, in which modules, and the first line that does."""
    modules = list(dict.fromkeys(map(module_named, nodes)))
    more = f" and {len(modules) - _MOST_MODULES} more" if len(modules) > _MOST_MODULES else ""
    line = line_of(nodes[0])
    return (
        f"({f'{len(nodes)} times ' if len(nodes) > 1 else ''}"
        f"in {', '.join(modules[:_MOST_MODULES])}{more}{f': {line}' if line else ''})"
    )


def check_indexing(program: ExportedProgram, name: str) -> None:
    """Refuse ``x[:, i, j]``, which TVM takes for an outer product unless it is one."""
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target is not torch.ops.aten.index.Tensor:
            continue
        used = [(axis, one.meta["val"]) for axis, one in enumerate(node.args[1]) if one is not None]
        if 1 < len(used) < len(node.args[1]) and not _is_outer(used):
            raise Error(
                f"program {name} indexes a tensor by {len(used)} tensors and a slice (in "
                f"{module_named(node)}: {line_of(node)}), which cannot be translated; index by one "
                "tensor after the other, or use torch.gather"
            )


def _is_outer(used: list[tuple[int, torch.Tensor]]) -> bool:
    """Whether indices are ``i[:, None], j`` into neighbouring axes."""
    if len(used) != 2:
        return False
    (first, rows), (second, columns) = used
    flat = columns.ndim == 1 or (columns.ndim == 2 and columns.shape[0] == 1)
    column = rows.ndim == 2 and rows.shape[1] == 1 and rows.shape[0] != 1
    return second == first + 1 and flat and columns.shape[-1] != 1 and column
