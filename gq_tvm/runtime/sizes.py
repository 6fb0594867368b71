"""Sizes of the manifest: numbers, names of sizes known only at run time, expressions of these."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping

from gq_tvm.errors import Error

_LONGEST = 1000  # characters of an expression
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def evaluate(size: int | str, sizes: Mapping[str, int], otherwise: int | None = None) -> int:
    """Return a size of the manifest as a number; names not in ``sizes`` count as ``otherwise``.

    Raises:
        Error: it is no sum or product of known names and numbers.
    """

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                return number
            case ast.Name(id=name) if name in sizes or otherwise is not None:
                return sizes.get(name, otherwise or 0)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
        raise ValueError("an operator or a name that is unknown")

    if isinstance(size, int):
        return size
    try:
        # Beyond that length it was not written by us, and may take the parser any time and memory.
        return value(ast.parse(size if len(size) <= _LONGEST else "", mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        raise Error(
            f"the size {size[:40]} of this artefact is not understood; compile the model again"
        ) from None
