"""The range of each size known at run time, by what a graph asked of it while it was traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

_FARTHEST = 1 << 20  # a size that is tried as the largest


def bounded(program: ExportedProgram) -> ExportedProgram:
    """Narrow the ranges of a program to the sizes around its example that its guards let pass.

    A graph that asks whether a size is 1, or too short for a window, was traced for one answer. The
    other way round torch.export leaves out 1 although nothing in a program may hang on it.
    """
    from torch.utils._sympy.value_ranges import ValueRanges

    passes = _guards(program)
    for symbol, hint in _symbols(program).items():
        bounds = program.range_constraints[symbol]
        least = 1 if bounds.lower == 2 else int(bounds.lower)
        lower = _edge(hint, least, symbol, passes)
        most = int(bounds.upper) if bounds.upper <= sys.maxsize else None
        upper = _edge(hint, most or _FARTHEST, symbol, passes)
        free = most is None and upper == _FARTHEST
        program.range_constraints[symbol] = ValueRanges(lower, bounds.upper if free else upper)
    return program


def is_constant(size: Any) -> bool:
    """Whether a size of an exported program is the same in every run."""
    return not isinstance(size, torch.SymInt) or bool(size.node.expr.is_number)


def _inputs(program: ExportedProgram) -> list[Any]:
    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    return [values[str(name)] for name in program.graph_signature.user_inputs]


def _symbols(program: ExportedProgram) -> dict[Any, int]:
    """The symbols that are sizes of inputs, with those of the example."""
    examples = program.example_inputs[0] if program.example_inputs else ()
    found = {}
    for one, example in zip(_inputs(program), examples, strict=True):
        for size, its in zip(one.shape, example.shape, strict=True):
            if isinstance(size, torch.SymInt) and size.node.expr in program.range_constraints:
                found[size.node.expr] = int(its)
    return found


def _guards(program: ExportedProgram) -> Callable[[Mapping[Any, int]], bool]:
    """Whether a program takes inputs with some of its sizes set to others than the example's."""
    from torch._subclasses import FakeTensorMode

    check: Any = getattr(program.module(), "_guards_fn", None)
    hints, mode = _symbols(program), FakeTensorMode()

    def passes(sizes: Mapping[Any, int]) -> bool:
        full = {**hints, **sizes}
        given = []
        for one in _inputs(program):
            shape = [
                int(size.node.expr.subs(full)) if isinstance(size, torch.SymInt) else size
                for size in one.shape
            ]
            with mode:
                given.append(torch.empty(shape, dtype=one.dtype))
        try:
            check(*given)
        except AssertionError:
            return False
        return True

    return passes if check is not None else lambda sizes: True


def _edge(good: int, bad: int, symbol: Any, passes: Callable[[Mapping[Any, int]], bool]) -> int:
    """The last size that passes, from one that does towards another, by bisection."""
    if passes({symbol: bad}):
        return bad
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if passes({symbol: middle}) else (good, middle)
    return good
