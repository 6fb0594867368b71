"""Finding a configuration by path or by the name of a shipped one, and changing values in it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gq_tvm import reading
from gq_tvm.errors import Error

SHIPPED = Path(__file__).parent / "configs"

_PATHS = {"output", "folder", "file", "texts", "cache", "start_from", "initial", "allocation"}


def shipped() -> dict[str, str]:
    """The first comment of each shipped configuration, by name."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for path in sorted(SHIPPED.glob("*.toml"))
    }


def load(name: str, changes: Iterable[str] = ()) -> tuple[dict[str, Any], Path]:
    """The values of a configuration, and the folder its paths are relative to.

    Args:
        name: a path, or the name of a shipped configuration; paths in that one are relative to
            the present folder.
        changes: ``"key.path=value"`` each, keys quoted as in TOML; a table of ``[[corpus]]`` is
            named by its number, from 0. Paths in changes are relative to the present folder, but
            that of a corpus to the folder of its kind where ``folders`` has one.

    Raises:
        Error: there is no such file, it is no TOML, or a change leads nowhere.
    """
    path = Path(name)
    base = path.absolute().parent
    if not os.path.exists(path):
        if name not in shipped():
            near = difflib.get_close_matches(name, shipped(), n=2) or list(shipped())
            raise Error(
                f"{name}: there is no such file, nor a shipped configuration of that name; "
                f"the shipped are {', '.join(near)}"
            )
        path, base = SHIPPED / f"{name}.toml", Path.cwd()
    try:
        values = reading.toml(reading.text(path))
    except ValueError as error:
        raise Error(f"{path} is no TOML file ({error}); correct it") from None
    for table, key in [_change(values, one) for one in changes]:
        _make_absolute(values, table, key)
    return values, base


def _change(values: dict[str, Any], change: str) -> tuple[dict[str, Any], str]:
    """Put a value in its place; returns the table and the key."""
    parts, text = _split(change)
    inside: Any = values
    for depth, part in enumerate(parts[:-1]):
        if isinstance(inside, list):
            inside = _element(inside, part, change)
        elif isinstance(inside, dict):
            inside = inside.setdefault(part, {})
        else:
            raise Error(f"--set {change}: {'.'.join(parts[:depth])} is no table; correct the key")
    if not isinstance(inside, dict):
        raise Error(f"--set {change} names no key of a table; correct it")
    inside[parts[-1]] = _value(text)
    return inside, parts[-1]


def _split(change: str) -> tuple[list[str], str]:
    """The keys and the value as text; quoted keys may hold dots and equal signs."""
    for number, sign in enumerate(change):
        if sign == "=" and (keys := _keys(change[:number])):
            return keys, change[number + 1 :].strip()
    raise Error(
        f"--set {change} is not of the form KEY.KEY=VALUE; correct it, and put a key of more than "
        "letters, digits, _ and - into quotes"
    )


def _keys(text: str) -> list[str]:
    """The parts of a dotted key; none where it is no key."""
    try:
        inside: Any = reading.toml(f"{text} = 0")
    except ValueError:
        return []
    keys = []
    while isinstance(inside, dict) and len(inside) == 1:
        ((key, inside),) = inside.items()
        keys.append(key)
    return keys if inside == 0 else []


def _make_absolute(values: dict[str, Any], table: dict[str, Any], key: str) -> None:
    """Let a path that a change gave start at the present folder."""
    folders = values.get("folders")
    if key not in _PATHS and table is not folders:
        return
    within = key == "folder" and isinstance(folders, dict) and str(table.get("kind")) in folders
    if isinstance(value := table.get(key), str) and not within:
        table[key] = str(Path(value).expanduser().absolute())


def _element(tables: list[Any], number: str, change: str) -> Any:
    if not number.isdigit() or int(number) >= len(tables):
        raise Error(f"--set {change}: choose a table from 0 to {len(tables) - 1}, not {number!r}")
    return tables[int(number)]


def _value(text: str) -> Any:
    """A TOML value; what is none is text that was spared its quotes."""
    try:
        return reading.toml(f"x = {text}")["x"]
    except ValueError:
        return text
