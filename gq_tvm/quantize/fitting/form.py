"""What a fitted weight may be, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from gq_tvm.errors import Error
from gq_tvm.ops.checks import GROUPS, SHARED_SCALES
from gq_tvm.ops.torch_weight import WeightTensors

#: The largest share of weights that may be kept apart at 16 bits.
MOST_OUTLIERS = 0.005
_FEW_OUTLIERS = 0.002  # where nobody says


@dataclass(frozen=True)
class Form:
    """How a weight [N, K] may be stored.

    Attributes:
        bits: of an index, 1 to 8.
        int8_grid: centroids lie on an int8 grid, for integer activations.
        scales: one for the ``"tensor"``, for each ``"row"``, or for each group of 16, 32, 64 or
            128 inputs of a row. Scales of groups are float16, others float32.
        outliers: the largest share of weights kept apart at 16 bits, 0 to 0.005; None: 0.002 of
            those with scales of rows or groups, where that halves the error.

    Raises:
        Error: a value is none of these.
    """

    bits: int
    int8_grid: bool
    scales: str | int
    outliers: float | None = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise Error(f"fit: bits must be 1 to 8, got {self.bits}.")
        if self.scales not in SHARED_SCALES:
            raise Error(
                f'fit: scales must be "tensor", "row", {", ".join(map(str, GROUPS[:-1]))} or '
                f"{GROUPS[-1]}, got {self.scales!r}."
            )
        if self.outliers is not None and not 0 <= self.outliers <= MOST_OUTLIERS:
            raise Error(f"fit: outliers must be 0 to {MOST_OUTLIERS}, got {self.outliers}.")

    @property
    def most_outliers(self) -> float:
        """The largest share of weights kept apart."""
        if self.outliers is None:
            return 0.0 if self.scales == "tensor" else _FEW_OUTLIERS
        return self.outliers

    @property
    def levels(self) -> int:
        """Centroids a table has room for."""
        return int(2**self.bits)


@dataclass(frozen=True)
class Fit:
    """A weight in its codebook.

    Attributes:
        weight: indices u8 [N, K], a codebook f32 [1, 2^bits], scales [1], [N] or [N, J]; outliers
            float16, float32 where that holds them badly, None where none pays.
        lost: the root of the share of the weight's norm that is lost, 0 to about 1; with moments
            ``sqrt(tr(E H E^T) / tr(W H W^T))``: the share of its outputs. 0 for a weight of zeros.
    """

    weight: WeightTensors
    lost: float
