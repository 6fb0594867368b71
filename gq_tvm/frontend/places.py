"""Where in the user's model a node of an exported program comes from, in words."""

from __future__ import annotations

import re
from pathlib import PurePath

from torch import fx

_FRAME = re.compile(
    r'File "(?P<file>[^"]*)", line (?P<line>\d+), in [^\n]*(?:\n\s+(?!File )(?P<code>\S.*))?'
)
_PYTORCH = "-packages/torch/"  # frames of its own layers say little of a model
_LONGEST = 80  # characters of a line of code


def name_of(node: fx.Node) -> str:
    """What TVM calls an operator: ``sum.dim_IntList``."""
    return getattr(node.target, "__name__", str(node.target))


def module_of(node: fx.Node) -> str:
    """The module a node was traced in, e.g. ``encoder.lstm``; "" at the top."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return re.sub(r"@\d+$", "", str(stack[-1][0])) if stack else ""  # "@1": its second call


def module_named(node: fx.Node) -> str:
    """The same for a sentence: ``encoder.lstm`` or ``the top level``."""
    return module_of(node) or "the top level"


def line_of(node: fx.Node) -> str:
    """The line a node was traced at, e.g. ``net.py, line 7: x.sum()``; "" if it is not known."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    if not frames:
        return ""
    own = [frame for frame in frames if _PYTORCH not in frame["file"].replace("\\", "/")]
    last = (own or frames)[-1]
    code = (last["code"] or "").strip()
    where = f"{PurePath(last['file']).name}, line {last['line']}"
    return f"{where}: {code[:_LONGEST]}" if code else where


def place_of(node: fx.Node) -> str:
    """The operator, its module and its line: ``aten.sum.default in head (net.py, line 7: ...)``."""
    line = line_of(node)
    return f"{node.target} in {module_named(node)}{f' ({line})' if line else ''}"
