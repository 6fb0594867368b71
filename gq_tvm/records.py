"""JSON of files that anybody may have edited: read strictly, into dataclasses, each refusal by key.

``json`` alone takes a name twice, and answers brackets without end by a RecursionError; a dataclass
takes any value for any field.
"""

from __future__ import annotations

import dataclasses
import json
import re
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_DEEPEST = 64  # brackets within one another
_LEAST, _GREATEST = -(2**63), 2**63 - 1
_HALF = re.compile("[\ud800-\udfff]")  # of a character: JSON can spell it, nothing can write it
_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
    list: "a list",
    dict: "a table",
}


class Wrong(ValueError):
    """A refusal that begins with the key of the value; whoever reads the file names the file."""


def loads(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        Wrong: it is none, has a name twice in one table, or more than 64 brackets within another.
    """
    try:
        data = json.loads(text, object_pairs_hook=_table)
    except Wrong:
        raise
    except ValueError as failure:
        raise Wrong(f"it is no JSON: {failure}") from None
    except RecursionError:
        raise Wrong("it has too many brackets within one another") from None
    layer = [data]
    for _ in range(_DEEPEST):
        layer = [inner for one in layer if isinstance(one, list | dict) for inner in _inner(one)]
    if layer:
        raise Wrong("it has too many brackets within one another")
    return data


def read(kind: Any, value: Any, key: str = "") -> Any:
    """Return a JSON value as what a field's type says.

    Args:
        kind: A dataclass, ``str``, ``int`` (of 64 bits), ``float``, ``bool``, lists, tables and
            unions of these, or ``Any``.
        value: What `loads` returned, or a part of it.
        key: What to call it in the refusal.

    Raises:
        Wrong: it is something else.
    """
    options = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    for option in options:
        outer = get_origin(option) or option
        if kind is Any:
            return value
        if dataclasses.is_dataclass(outer) and isinstance(value, dict):
            return _record(outer, value, key)
        if outer is list and isinstance(value, list):
            (inner,) = get_args(option)
            return [read(inner, one, f"{key}[{i}]") for i, one in enumerate(value)]
        if outer is dict and isinstance(value, dict):
            _, inner = get_args(option)
            for name in value:
                read(str, name, f"a name in {key}")
            return {name: read(inner, one, _inside(key, name)) for name, one in value.items()}
        if type(value) is outer and _fits(value):
            return value
    wanted = " or ".join(_KINDS.get(get_origin(one) or one, "a table") for one in options)
    raise Wrong(f"{key} is {_shown(value)}, not {wanted}")


def _record(kind: Any, value: dict[str, Any], key: str) -> Any:
    hints = get_type_hints(kind)
    for name in value:
        if name not in hints:
            raise Wrong(f"{_inside(key, name)} is unknown")
    for field in dataclasses.fields(kind):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            raise Wrong(f"{_inside(key, field.name)} is missing")
    return kind(**{name: read(hints[name], one, _inside(key, name)) for name, one in value.items()})


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Wrong(f"it has {_shown(twice)} twice in one table")
    return found


def _fits(value: Any) -> bool:
    if isinstance(value, str):
        return _HALF.search(value) is None
    return not isinstance(value, int) or _LEAST <= value <= _GREATEST


def _inner(value: list[Any] | dict[str, Any]) -> list[Any]:
    return value if isinstance(value, list) else list(value.values())


def _inside(key: str, name: str) -> str:
    name = name if _fits(name) else _shown(name)
    return f"{key}.{name}" if key else name


def _shown(value: Any) -> str:
    """A value as JSON in ASCII, the first of it where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
