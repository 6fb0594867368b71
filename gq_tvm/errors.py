"""The one exception users see."""

from __future__ import annotations


class Error(Exception):
    """A refusal: its text is one sentence that says what is wrong and what to do.

    Commands print it after ``error:`` and leave with exit code 2.
    """
