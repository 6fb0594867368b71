"""Reading one table of a configuration; what is wrong with it is said in a sentence."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from gq_tvm.errors import Error

_Settings = TypeVar("_Settings")
_REQUIRED: Any = object()

#: The smallest and the largest value of a number, by key; those not named may be anything.
Limits = Mapping[str, tuple[float | None, float | None]]


class Table:
    """The values of a table, each taken once and checked; ``finish`` refuses what is left over.

    Args:
        values: as ``tomllib`` reads them.
        name: of the table, as in the file: ``"fp32"``; empty for the whole file.
        base: the folder that paths are relative to.
    """

    def __init__(self, values: Any, name: str, base: Path) -> None:
        if not isinstance(values, Mapping):
            raise Error(f"the configuration's {name} must be a table, not {values!r}")
        self._values, self.name, self._base = dict(values), name, base
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def keys(self) -> list[str]:
        """The keys that were not taken yet."""
        return [key for key in self._values if key not in self._asked]

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of a key as it is; refuses its absence unless there is a default."""
        self._asked.append(key)
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise Error(f"the configuration needs {self._full(key)}; add it")
        return default

    def text(self, key: str, default: Any = _REQUIRED, choices: Collection[str] = ()) -> Any:
        """A string, one of the choices if there are any."""
        value = self.take(key, default)
        if value is default:
            return value
        if not isinstance(value, str):
            self.refuse(key, value, "text in quotes")
        if choices and value not in choices:
            self.refuse(key, value, f"one of {', '.join(choices)}")
        return value

    def texts(self, key: str, default: Any = _REQUIRED) -> Any:
        """A tuple of strings."""
        value = self.take(key, default)
        if value is default:
            return value
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            self.refuse(key, value, "a list of texts in quotes")
        return tuple(value)

    def path(self, key: str, default: Path | None = _REQUIRED) -> Any:
        """A path; a relative one starts at the configuration's folder."""
        value = self.text(key, default)
        return value if value is default else self._base / Path(value).expanduser()

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def whole(
        self, key: str, default: Any = _REQUIRED, low: int = 0, high: int | None = None
    ) -> Any:
        """A whole number within limits, both included."""
        return self._number(key, self.take(key, default), True, (low, high))

    def number(
        self,
        key: str,
        default: Any = _REQUIRED,
        limits: tuple[float | None, float | None] = (0, None),
    ) -> Any:
        """A number within limits, both included."""
        return self._number(key, self.take(key, default), False, limits)

    def table(self, key: str) -> Table:
        """The table inside this one; an absent one is empty."""
        return Table(self.take(key, {}), self._full(key), self._base)

    def tables(self, key: str) -> list[Table]:
        """The tables written ``[[key]]``."""
        values = self.take(key, [])
        if not isinstance(values, list):
            raise Error(f"the configuration's {key} must be tables [[{key}]], not {values!r}")
        return [Table(v, f"{self._full(key)}.{n}", self._base) for n, v in enumerate(values)]

    def settings(
        self, kind: type[_Settings], limits: Limits, skip: Collection[str] = (), **defaults: Any
    ) -> _Settings:
        """A dataclass of numbers, flags and pairs of numbers, its fields' names being the keys.

        What the table leaves out has its value from ``defaults``, else the dataclass's own.
        """
        found: dict[str, Any] = {}
        for field in fields(kind):  # type: ignore[arg-type]
            if field.name in skip:
                continue
            fallback = defaults.get(field.name, field.default)
            value = self.take(field.name, _REQUIRED if fallback is MISSING else fallback)
            bounds = limits.get(field.name, (None, None))
            if field.type == "bool":
                found[field.name] = self.flag(field.name, bool(value))
            elif str(field.type).startswith("tuple"):
                found[field.name] = self._pair(field.name, value, bounds)
            else:
                found[field.name] = self._number(field.name, value, field.type == "int", bounds)
        return kind(**found)

    def finish(self) -> None:
        """Refuse keys that nobody asked for, and name those near them."""
        for key in self.keys:
            near = difflib.get_close_matches(key, self._asked, n=3) or sorted(set(self._asked))
            raise Error(
                f"the configuration has {self._full(key)}, which means nothing; "
                f"use {' or '.join(near) if len(near) < 4 else 'one of ' + ', '.join(near)}"
            )

    def refuse(self, key: str, value: Any, wanted: str) -> None:
        """Raise the Error that says what a key must be."""
        raise Error(f"the configuration's {self._full(key)} must be {wanted}, not {value!r}")

    def _full(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def _pair(self, key: str, value: Any, limits: tuple[float | None, float | None]) -> Any:
        if not isinstance(value, Iterable) or isinstance(value, str) or len(list(value)) != 2:
            self.refuse(key, value, "two numbers in brackets")
        return tuple(float(self._number(key, one, False, limits)) for one in value)

    def _number(
        self, key: str, value: Any, whole: bool, limits: tuple[float | None, float | None]
    ) -> Any:
        if value is None:
            return value
        low, high = limits
        right = not isinstance(value, bool) and isinstance(value, int if whole else (int, float))
        inside = (
            right
            and math.isfinite(value)
            and (low is None or value >= low)
            and (high is None or value <= high)
        )
        if not inside:
            bounds = [f"of {low} or more"] if low is not None else []
            bounds += [f"of at most {high}"] if high is not None else []
            kind = "a whole number" if whole else "a number"
            self.refuse(key, value, " ".join([kind, " and ".join(bounds)]).strip())
        return value if whole else float(value)
