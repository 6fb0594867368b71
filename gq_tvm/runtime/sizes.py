"""Sizes of the manifest: numbers, names of sizes known only at run time, expressions of these."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping

from gq_tvm.errors import Error

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
            case ast.Constant(value=int() as number):
                return number
            case ast.Name(id=name) if name in sizes or otherwise is not None:
                return sizes.get(name, otherwise or 0)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
        raise Error(f"the size {size} of this artefact is not understood; compile the model again")

    if isinstance(size, int):
        return size
    try:
        return value(ast.parse(size, mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        raise Error(
            f"the size {size} of this artefact is not understood; compile the model again"
        ) from None
