"""Sizes of the manifest: numbers, names of sizes known only at run time, expressions of these."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from gq_tvm.errors import Error

_LONGEST = 1000  # characters of an expression
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
# As TVM prints them, behind "T.".
_FUNCTIONS: dict[tuple[str, int], Callable[..., int]] = {
    ("min", 2): min,
    ("max", 2): max,
    ("if_then_else", 3): lambda condition, then, otherwise: then if condition else otherwise,
}


def evaluate(size: int | str, sizes: Mapping[str, int], otherwise: int | None = None) -> int:
    """Return a size of the manifest as a number; names not in ``sizes`` count as ``otherwise``.

    Raises:
        Error: it is made of more than known names, numbers, arithmetic and choices between two.
    """

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                return number
            case ast.Name(id=name) if name in sizes or otherwise is not None:
                return sizes.get(name, otherwise or 0)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="T"), attr=name), args=args) if (
                function := _FUNCTIONS.get((name, len(args)))
            ):
                return function(*map(value, args))
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
