"""The knobs of a kernel: what a tuner may turn without changing a result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product as every

from gq_tvm.errors import Error


@dataclass(frozen=True)
class Knob:
    """What can be turned of a kernel family's kernels.

    Attributes:
        name: As schedules spell it.
        default: Its value where a schedule says nothing.
        layout: Whether the weight is packed by it.
    """

    name: str
    default: int
    layout: bool = False


class Schedule(Mapping[str, int]):
    """Values of knobs by name; frozen. Which knobs there are is the kernel family's to say."""

    def __init__(self, **knobs: int) -> None:
        self._knobs = knobs

    def __getitem__(self, name: str) -> int:
        return self._knobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._knobs)

    def __len__(self) -> int:
        return len(self._knobs)

    def __hash__(self) -> int:
        return hash(frozenset(self._knobs.items()))

    def __str__(self) -> str:
        """As ``parse`` reads it: ``vectors=4 rows=4 block=16 unroll=1 prefetch=0``."""
        return " ".join(f"{name}={value}" for name, value in self._knobs.items())

    def __repr__(self) -> str:
        return f"Schedule({str(self)!r})"

    @staticmethod
    def parse(text: str) -> Schedule:
        """Return the schedule whose ``str`` is ``text``.

        Raises:
            Error: ``text`` is no schedule.
        """
        try:
            pairs = (pair.split("=") for pair in text.split())
            return Schedule(**{name: int(value) for name, value in pairs})
        except ValueError as failure:
            raise Error(f"{text!r} is no schedule; one looks like 'vectors=4 rows=1'") from failure


def grid(first: Schedule, **knobs: Iterable[int]) -> list[Schedule]:
    """Return ``first``, then every other combination of values of the knobs named."""
    rest = [
        Schedule(**{**first, **dict(zip(knobs, values, strict=True))})
        for values in every(*knobs.values())
    ]
    return [first, *(one for one in rest if one != first)]
