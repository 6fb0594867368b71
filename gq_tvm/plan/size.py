"""Sizes: numbers, those an input tells when a function is called, and what is computed from them.

All are of 64 bits; division rounds down, as Python's does, and a comparison is 0 or 1.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from gq_tvm.errors import Error

MOST_TERMS = 1000  # of one size; beyond that it was not written by us, and may take any time

#: What sizes are computed by; a file spells an operation by its name here.
OPERATIONS: dict[str, Callable[..., int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.floordiv,
    "mod": operator.mod,
    "min": min,
    "max": max,
    "lt": operator.lt,
    "eq": operator.eq,
    "select": lambda condition, then, otherwise: then if condition else otherwise,
}
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "//", "mod": "%", "lt": "<", "eq": "=="}


@dataclass(frozen=True)
class Named:
    """What an axis of an input tells.

    Attributes:
        name: What users know it by; no two of a function share one.
        input: The number of the input.
        axis: Of its axis.
        least: The least it may be.
        most: The most it may be, None for any.
    """

    name: str
    input: int
    axis: int
    least: int = 0
    most: int | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Computed:
    """What is computed from other sizes by one of `OPERATIONS`."""

    operation: str
    operands: tuple[Size, ...]

    @cached_property
    def terms(self) -> int:
        """How many numbers, names and operations it is made of."""
        return 1 + sum(one.terms if isinstance(one, Computed) else 1 for one in self.operands)

    def __str__(self) -> str:
        inner = [
            f"({one})" if isinstance(one, Computed) and one.operation in _SIGNS else str(one)
            for one in self.operands
        ]
        if self.operation in _SIGNS:
            return f" {_SIGNS[self.operation]} ".join(inner)
        return f"{self.operation}({', '.join(map(str, self.operands))})"


Size = int | Named | Computed
Shape = tuple[Size, ...]


def computed(operation: str, *operands: Size) -> Size:
    """A size computed from others; a number where these are numbers.

    Raises:
        Error: it is made of more than `MOST_TERMS`.
    """
    size = Computed(operation, operands)
    if size.terms > MOST_TERMS:
        raise Error(f"a size is computed from more than {MOST_TERMS} others")
    if all(isinstance(one, int) for one in operands):
        return evaluate(size, {})
    return size


def evaluate(size: Size, sizes: Mapping[str, int]) -> int:
    """What a size is where the named ones are these.

    Raises:
        Error: it divides by zero.
    """
    if isinstance(size, int):
        return size
    if isinstance(size, Named):
        return sizes[size.name]
    values = [evaluate(one, sizes) for one in size.operands]
    try:
        return int(OPERATIONS[size.operation](*values))
    except ZeroDivisionError:
        raise Error(f"the size {str(size)[:40]} divides by zero; give other inputs") from None


def named(size: Size) -> Iterator[Named]:
    """The named sizes in a size."""
    if isinstance(size, Named):
        yield size
    elif isinstance(size, Computed):
        for one in size.operands:
            yield from named(one)
