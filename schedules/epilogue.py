"""What happens to the sums of a linear layer before they are stored.

``y = residual + scale * activation(x W^T + bias)``, where the activation may be a gated linear
unit: the first half of the outputs times the sigmoid of the second half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gq_tvm.errors import Error
from gq_tvm.schedules.cpu.vector_math import FUNCTIONS

GLU = "glu"
#: Activations a linear kernel can end with; "" is none.
ACTIVATIONS = ("", *FUNCTIONS, GLU)


@dataclass(frozen=True)
class Epilogue:
    """``y = residual + scale * activation(x W^T + bias)``.

    Attributes:
        activation: One of ``ACTIVATIONS``.
        scale: What the activation's result is multiplied by.
        residual: Whether a tensor of the output's shape is added.
    """

    activation: str = ""
    scale: float = 1.0
    residual: bool = False

    @property
    def glu(self) -> bool:
        """Whether the outputs are half as many as the rows of the weight."""
        return self.activation == GLU

    def outputs(self, n: int) -> int:
        """Outputs of a layer with ``n`` rows of weights."""
        return n // 2 if self.glu else n

    def __str__(self) -> str:
        """As ``parse`` reads it: ``silu``, ``scale=0.5 residual``; nothing for the identity."""
        scale = f"scale={self.scale!r}" if self.scale != 1 else ""
        words = (self.activation, scale, "residual" if self.residual else "")
        return " ".join(word for word in words if word)

    @staticmethod
    def parse(text: str) -> Epilogue:
        """Return the epilogue whose ``str`` is ``text``.

        Raises:
            Error: ``text`` is no epilogue.
        """
        words = text.split()
        activation = words.pop(0) if words and words[0] in ACTIVATIONS else ""
        scale = words.pop(0).removeprefix("scale=") if words and "scale=" in words[0] else "1"
        residual = words == ["residual"]
        try:
            if words and not residual:
                raise ValueError(words)
            return Epilogue(activation, float(scale), residual)
        except ValueError as failure:
            hint = "one looks like 'silu scale=0.5 residual'"
            raise Error(f"{text!r} is no epilogue; {hint}") from failure


def glu_order(n: int, lanes: int, vectors: int) -> np.ndarray:
    """Return the source row of each packed row of a GLU's weight, ``int64``; -1 is padding.

    Behind each vector of outputs stands that of their gates, so both are in one tile.

    Args:
        n: Rows of the weight.
        lanes: Outputs of a vector.
        vectors: Vectors of a tile, an even number.
    """
    assert n % 2 == 0
    assert vectors % 2 == 0
    half, pairs = n // 2, vectors // 2
    tiles = -(-half // (pairs * lanes))
    unit = np.arange(tiles * pairs * lanes).reshape(tiles * pairs, 1, lanes)
    rows = np.array([0, half])[None, :, None] + unit
    return np.where(unit < half, rows, -1).reshape(-1)
