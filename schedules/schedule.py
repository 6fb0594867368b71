"""The knobs of a kernel: what a tuner may turn without changing a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import product as every

from gq_tvm.errors import Error


@dataclass(frozen=True)
class Schedule:
    """How an engine's loops are cut. Every value computes the same; only the time differs.

    Attributes:
        vectors: Output vectors of a tile; it divides 8.
        rows: Rows of activations a tile takes at once, while its weights are in registers.
        block: Rows staged before the tiles pass by; they should fit the cache.
        unroll: Units of K in one trip of the innermost loop.
        prefetch: Bytes of weights fetched ahead of their use; 0 leaves it to the hardware.
    """

    vectors: int = 4
    rows: int = 4
    block: int = 16
    unroll: int = 1
    prefetch: int = 0

    @property
    def layout(self) -> int:
        """What of it decides how a weight is packed: equal for schedules that can share one."""
        return self.vectors

    def __str__(self) -> str:
        """As ``parse`` reads it: ``vectors=4 rows=4 block=16 unroll=1 prefetch=0``."""
        return " ".join(f"{one.name}={getattr(self, one.name)}" for one in fields(self))

    @staticmethod
    def parse(text: str) -> Schedule:
        """Return the schedule whose ``str`` is ``text``; knobs left out have their defaults.

        Raises:
            Error: ``text`` is no schedule.
        """
        try:
            pairs = (pair.split("=") for pair in text.split())
            return Schedule(**{name: int(value) for name, value in pairs})
        except (TypeError, ValueError) as failure:
            raise Error(f"{text!r} is no schedule; one looks like {str(Schedule())!r}") from failure


def grid(first: Schedule, **knobs: Iterable[int]) -> list[Schedule]:
    """Return ``first``, then every other combination of values of the knobs named."""
    rest = [
        replace(first, **dict(zip(knobs, values, strict=True))) for values in every(*knobs.values())
    ]
    return [first, *(one for one in rest if one != first)]
