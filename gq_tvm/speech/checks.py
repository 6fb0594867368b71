"""Values of a model's metadata, each checked and refused in the same words as by gq-run."""

from __future__ import annotations

import math
from typing import Any

from gq_tvm.errors import Error

_SHOWN = 40  # characters of an odd value


def refused(name: str, value: Any, rule: str) -> Error:
    """The refusal of a value; ``rule`` says what it must be."""
    return Error(f"the model's {name} is {shown(value)}, it must be {rule}; export it again")


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``; raises Error for anything else."""
    if not _is_number(value, low, high) or value != int(value):
        raise refused(name, value, f"a whole number from {low} to {high}")
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number from ``low`` to ``high``; raises Error for anything else."""
    if not _is_number(value, low, high):
        raise refused(name, value, f"a number from {_plain(low)} to {_plain(high)}")
    return float(value)


def numbers(name: str, values: Any, low: float, high: float) -> tuple[float, ...]:
    """A list of numbers from ``low`` to ``high``; raises Error for anything else."""
    if not isinstance(values, list | tuple):
        raise refused(name, values, "a list of numbers")
    for value in values:
        if not _is_number(value, low, high):
            raise _holds(name, value, f"numbers from {_plain(low)} to {_plain(high)}")
    return tuple(map(float, values))


def texts(name: str, values: Any) -> tuple[str, ...]:
    """A list of one text or more, each of whole characters; raises Error for anything else."""
    if not isinstance(values, list | tuple) or not values:
        raise refused(name, values, "a list of texts")
    for value in values:
        if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _holds(name, value, "texts")
    return tuple(values)


def _is_number(value: Any, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high and math.isfinite(value)


def _holds(name: str, value: Any, rule: str) -> Error:
    return Error(f"the model's {name} holds {shown(value)}, it must hold {rule}; export it again")


def _plain(bound: float) -> str:
    """A bound without an exponent: 0.000001."""
    return f"{bound:.6f}".rstrip("0").rstrip(".")


def shown(value: Any) -> str:
    """A value, or the start of a long one."""
    return str(value)[:_SHOWN]
