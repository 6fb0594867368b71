"""How long work takes, in words."""

from __future__ import annotations


def minutes(seconds: float) -> str:
    """A time in words: ``40 s``, ``3 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
