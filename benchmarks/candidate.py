"""What is timed: a candidate before it is built, and one that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ready:
    """A candidate with its input and output bound.

    Attributes:
        run: Computes once; what it returns is ignored.
        output: The y of the last run, f32 of the problem's shape.
        weight_bytes: What it holds of the weights: codes, scales, codebooks.
        detail: What it says about itself (the kernel chosen), or "".
        keep: What must live as long as it.
    """

    run: Callable[[], Any]
    output: Callable[[], np.ndarray]
    weight_bytes: int
    detail: str = ""
    keep: Any = None


@dataclass(frozen=True)
class Candidate:
    """One way of computing a problem.

    Attributes:
        system: ``"gq-tvm"``, ``"LiteRT"``, ...
        name: What tells it from the system's others.
        bits: Bits a weight, without scales and codebooks.
        activation: What a row of x becomes before it meets the weights.
        prepare: Builds it; whatever it raises becomes the reason that the row is absent.
        expected: Returns the y that its own weights give in exact arithmetic, where there is one.
        codebook: Whose codebook: ``"any"``, ``"fixed"``, or "" for uniform levels.
    """

    system: str
    name: str
    bits: float
    activation: str
    prepare: Callable[[], Ready]
    expected: Callable[[], np.ndarray] | None = None
    codebook: str = ""

    @property
    def label(self) -> str:
        """The name of its row."""
        return f"{self.system} {self.name}"
