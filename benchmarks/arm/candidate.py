"""What is modelled: a kernel before it is built, and one that can be called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

#: Outputs and inputs of the weight: the gates of an LSTM of 1024.
OUTPUTS, INPUTS = 4096, 1024
ROWS = (1, 4, 16)


@dataclass(frozen=True)
class Call:
    """A kernel as the kernel runner calls it.

    Attributes:
        library: The file that has it.
        function: Its name there.
        tensors: Its arguments; it writes the last.
        weight_bytes: What it reads of the weights: codes, tables, scales, bias.
        wrong: Says in words how the last tensor differs from what must come out, or "".
    """

    library: Path
    function: str
    tensors: Sequence[NDArray]
    weight_bytes: int
    wrong: Callable[[NDArray], str]


@dataclass(frozen=True)
class Candidate:
    """One way of computing the product.

    Attributes:
        system: ``"gq-tvm"``, ``"torchao"``, ...
        name: The kernel.
        bits: Bits a weight.
        activation: What a row of x becomes before it meets the weights.
        codebook: ``"any"``, or ``"uniform"`` for equally spaced levels.
        detail: What it says about itself: the schedule.
        chosen: Whether a user of gq-tvm gets it unasked.
        prepare: Builds it, with a folder for its files.
    """

    system: str
    name: str
    bits: int
    activation: str
    codebook: str
    detail: str
    chosen: bool
    prepare: Callable[[Path], Call]

    @property
    def label(self) -> str:
        """What tells it from the others of a core and a number of rows."""
        return f"{self.system} {self.name} {self.bits} bit x {self.activation}"
