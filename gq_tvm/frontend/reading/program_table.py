"""The table of a program in a ``.pt2`` file: what PyTorch's reader would run of it is refused.

The reader looks names of operators up in the whole of ``torch``, evaluates sizes as Python, runs
the guards as Python and imports the classes of inputs and outputs. A compiled function takes and
returns tensors in their order, so guards and classes are left out.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch

from gq_tvm.errors import Error

_SYMBOLIC = ("_operator.", "math.", "torch.sym_")
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant, ast.Name),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Load, ast.Call),
)
_PACKAGES = {"torchao": "torchao", "quant": "torchao"}  # by the namespaces of their operators
_LONGEST = 1000  # characters of a size
_FUNCTIONS = {  # of SymPy's and PyTorch's, as sympy.srepr spells them
    *("Add", "Mul", "Integer", "Rational", "Max", "Min", "Abs", "And", "Or", "Not", "Eq", "Ne"),
    *("Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan"),
    *("Lt", "Le", "Gt", "Ge", "ITE", "FloorDiv", "CleanDiv", "CeilDiv", "Mod", "PythonMod"),
    *("ModularIndexing", "Where", "Identity", "ToFloat", "TruncToInt", "CeilToInt", "FloorToInt"),
    *("RoundToInt", "TruncToFloat", "IntTrueDiv", "FloatTrueDiv", "Pow", "PowByNatural"),
}


def plain(table: Any, path: str) -> Any:
    """The table without guards and classes, its codebook operators as they are now.

    Args:
        table: ``models/NAME.json``.
        path: What refusals call the file.

    Raises:
        Error: it is damaged, or names what is no operator or size.
    """
    try:
        for one in _dicts(table):
            _check(one, path)
            _give_scales(one)
        table["guards_code"] = []
        table["graph_module"]["treespec_namedtuple_fields"] = {}
        for entry in table["graph_module"]["module_call_graph"]:
            if entry.get("signature"):
                for key in ("in_spec", "out_spec"):
                    entry["signature"][key] = _without_classes(entry["signature"][key])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as failure:
        raise Error(
            f"{path} is damaged (the table of a program: {type(failure).__name__}); write it "
            "again with torch.export.save"
        ) from failure
    return table


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict in a tree of JSON."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _check(table: dict[str, Any], path: str) -> None:
    if "expr_str" in table and not _is_arithmetic(str(table["expr_str"])):
        raise Error(f"{path} has a size that is no arithmetic: {str(table['expr_str'])[:80]!r}")
    operators = [table["target"]] if "target" in table and "outputs" in table else []
    operators += [table["as_operator"]] if "as_operator" in table else []
    for operator in operators:
        if not _is_operator(str(operator)):
            package = _package_of(str(operator))
            cure = f"install {package}" if package else "if a package defines it, import that first"
            raise Error(
                f"{path} uses {str(operator)[:80]!r}, which is no operator known here; {cure}"
            )


def _give_scales(node: dict[str, Any]) -> None:
    """Make a call of a codebook operator from before weights had scales one of today's.

    Its bits were an argument, and a scale for each row was in a table for each row.
    """
    if not str(node.get("target")).startswith("torch.ops.gq.codebook_"):
        return
    if not {"bits", "bits_ih"} & {one["name"] for one in node["inputs"]}:
        return
    new = []
    for one in node["inputs"]:
        name, _, part = one["name"].partition("_")
        if name != "bits":
            new.append(one)
        if name == "codebook":
            left_out = {"arg": {"as_none": True}, "kind": one.get("kind")}
            new += [{"name": f"{k}_{part}" if part else k, **left_out} for k in ("scale", "zero")]
    node["inputs"] = new


def _package_of(operator: str) -> str | None:
    """The package that defines an operator when it is imported, if it is one of a known few."""
    return _PACKAGES.get(operator.removeprefix("torch.ops.").partition(".")[0])


@functools.cache
def _is_operator(name: str) -> bool:
    package = _package_of(name)
    if package is not None:
        with suppress(ImportError):
            import_module(package)
    if name.startswith(_SYMBOLIC):
        return name.count(".") == 1
    root, ops, *parts = name.split(".") if name.count(".") > 1 else ["", "", ""]
    if (root, ops) != ("torch", "ops") or len(parts) not in (2, 3):
        return False
    space = getattr(torch.ops, parts[0], None)
    if not isinstance(space, torch._ops._OpNamespace | torch._ops._HigherOrderNamespace):
        return False
    found: Any = space
    for part in parts[1:]:
        found = getattr(found, part, None)
    return isinstance(found, torch._ops.OpOverload | torch._ops.HigherOrderOperator)


@functools.cache
def _is_arithmetic(text: str) -> bool:
    """Whether a text is numbers, symbols, operators and the functions that sizes are made of."""
    if len(text) > _LONGEST:
        return False
    try:
        waiting: list[ast.AST] = [ast.parse(text.strip(), mode="eval")]
    except (SyntaxError, MemoryError):
        return False
    while waiting:
        one = waiting.pop()
        if _is_leaf(one):
            continue
        if not isinstance(one, _ARITHMETIC) or not all(
            (
                not isinstance(one, ast.Name) or not one.id.startswith("__"),
                not isinstance(one, ast.Constant) or isinstance(one.value, int | float),
                not isinstance(one, ast.BinOp) or _is_small(one.op, one.left),
                not isinstance(one, ast.Call) or _calls_function(one),
            )
        ):
            return False
        waiting += ast.iter_child_nodes(one)
    return True


def _is_leaf(one: ast.AST) -> bool:
    """Whether it is ``Symbol('s77', positive=True)`` or ``Float('0.5', precision=53)``."""
    if not isinstance(one, ast.Call) or not isinstance(one.func, ast.Name) or len(one.args) != 1:
        return False
    values = [one.args[0], *(option.value for option in one.keywords)]
    if not all(isinstance(value, ast.Constant) for value in values):
        return False
    text, *options = (value.value for value in values if isinstance(value, ast.Constant))
    if not isinstance(text, str) or not all(isinstance(option, int) for option in options):
        return False
    if one.func.id == "Symbol":
        return text.isidentifier()
    return one.func.id == "Float" and re.fullmatch(r"[-+.\de]{1,40}", text) is not None


def _calls_function(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Name) or call.func.id not in _FUNCTIONS or call.keywords:
        return False
    return not call.func.id.startswith("Pow") or _is_small(ast.Pow(), call.args[0])


def _is_small(operator: ast.operator, left: ast.AST) -> bool:
    """Whether an operation does not make a huge number of small ones: a power is of a symbol."""
    power = isinstance(operator, ast.LShift | ast.Pow)
    return not power or isinstance(left, ast.Name) or _is_leaf(left)


def _without_classes(text: str) -> str:
    """A tree of inputs or outputs in which every class is a tuple of its fields."""
    protocol, tree = json.loads(text)
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        waiting += one["children_spec"]
        if one["type"] is None:
            continue
        if one["type"] not in _CONTAINERS or not _is_plain_context(one["context"]):
            one["type"], one["context"] = "builtins.tuple", "null"
    return json.dumps([protocol, tree])


def _is_plain_context(text: str) -> bool:
    """Whether the keys of a dict are texts and numbers."""
    keys = json.loads(text)
    return keys is None or all(isinstance(one, str | int | float) for one in keys)
