"""JSON of files that anybody may have edited: read strictly, into dataclasses, each refusal by key.

``json`` alone takes a name twice, and answers brackets without end by a RecursionError; a dataclass
takes any value for any field.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_DEEPEST = 64  # brackets within one another
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

    def __init__(self, what: str, key: str = "") -> None:
        super().__init__(what, key)
        self._what, self._key = what, key

    def __str__(self) -> str:
        return f"{self._key} {self._what}".strip()

    def inside(self, outer: str) -> Wrong:
        """The same of a value whose key begins with ``outer``."""
        dot = "." if outer and self._key and self._key[0] != "[" else ""
        return Wrong(self._what, f"{outer}{dot}{self._key}")


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
        kind: A dataclass, ``str``, ``int`` (of 64 bits), ``float``, ``bool``, lists, tables with
            names of these, unions of them, or ``Any``.
        value: What `loads` returned, or a part of it.
        key: What to call it in the refusal.

    Raises:
        Wrong: it is something else.
    """
    try:
        return _reader(kind)(value)
    except Wrong as wrong:
        raise wrong.inside(key) from None


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """What returns a value as ``kind``."""
    if kind is Any:
        return lambda value: value
    options = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    readers: dict[type, Callable[[Any], Any]] = {}
    for option in options:
        outer = get_origin(option) or option
        if dataclasses.is_dataclass(outer):
            readers[dict] = _record(outer)
        elif outer is list:
            readers[list] = _list(_reader(*get_args(option)))
        elif outer is dict:
            readers[dict] = _table_of(_reader(get_args(option)[1]))
        else:
            readers[outer] = _PLAIN.get(outer, _reader(Any))
    wanted = " or ".join(_KINDS[one] for one in readers)

    def read_as(value: Any) -> Any:
        reader = readers.get(type(value))
        if reader is None:
            raise Wrong(f"is {_shown(value)}, not {wanted}")
        return reader(value)

    return read_as


def _record(kind: Any) -> Callable[[dict[str, Any]], Any]:
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory is dataclasses.MISSING
    ]

    def read_as(value: dict[str, Any]) -> Any:
        fields = {}
        for name, one in value.items():
            if name not in readers:
                raise Wrong("is unknown", _name(name))
            try:
                fields[name] = readers[name](one)
            except Wrong as wrong:
                raise wrong.inside(name) from None
        for name in needed:
            if name not in fields:
                raise Wrong("is missing", name)
        return kind(**fields)

    return read_as


def _list(inner: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    def read_as(value: list[Any]) -> list[Any]:
        found = []
        for i, one in enumerate(value):
            try:
                found.append(inner(one))
            except Wrong as wrong:
                raise wrong.inside(f"[{i}]") from None
        return found

    return read_as


def _table_of(inner: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def read_as(value: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, one in value.items():
            try:
                found[_text(name)] = inner(one)
            except Wrong as wrong:
                raise wrong.inside(_name(name)) from None
        return found

    return read_as


def _text(value: str) -> str:
    if not value.isascii() and _HALF.search(value):
        raise Wrong(f"has half a character, {_shown(value)}")
    return value


def _number(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise Wrong(f"is {_shown(value)}, more than 64 bits")
    return value


_PLAIN: dict[type, Callable[[Any], Any]] = {str: _text, int: _number}


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Wrong(f"it has {_shown(twice)} twice in one table")
    return found


def _inner(value: list[Any] | dict[str, Any]) -> list[Any]:
    return value if isinstance(value, list) else list(value.values())


def _name(name: str) -> str:
    return _shown(name) if _HALF.search(name) else name


def _shown(value: Any) -> str:
    """A value as JSON in ASCII, the first of it where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
