"""What users give, refused in a sentence where it is of another kind than asked for."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from gq_tvm.errors import Error


def check_patterns(verb: str, **arguments: Any) -> None:
    """Refuse what does not map patterns, strings, to anything; ``verb`` is who says so."""
    for name, value in arguments.items():
        if not isinstance(value, Mapping):
            raise Error(
                f"{verb}: {name} must be a dictionary by pattern of a name, such as "
                f'{{"encoder.*": ...}}, got {value!r}.'
            )
        for pattern in value:
            if not isinstance(pattern, str):
                raise Error(
                    f"{verb}: {name}: a pattern must be a string, such as "
                    f'"{pattern}", got {pattern!r}.'
                )


def check_flags(verb: str, **arguments: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise Error(f"{verb}: {name} must be True or False, got {value!r}.")


def check_numbers(verb: str, kind: type = Real, **arguments: Any) -> None:
    """Refuse what is no number, or with ``kind`` int no whole one."""
    for name, value in arguments.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            what = "a whole number" if kind is int else "a number"
            raise Error(f"{verb}: {name} must be {what}, got {value!r}.")
