"""How long work takes, said as it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable

#: What is told how the work goes on, a line at a time.
Say = Callable[[str], object]


def say_to_stderr(line: str) -> None:
    """The default of ``progress``."""
    print(line, file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    """A time in words: ``40 s``, ``3 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
