"""What a convolution reads: windows that slide over the frames of a tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution; sizes that are None are known only at run time.

    Attributes:
        size: Inputs.
        out: Outputs.
        taps: Of the kernel.
        stride: Inputs between outputs; of a transposed convolution, outputs between inputs.
        dilation: Inputs between taps; of a transposed convolution, outputs.
        left: Zeros in front; of a transposed convolution, outputs that are cut off there.
    """

    size: int | None
    out: int | None
    taps: int = 1
    stride: int = 1
    dilation: int = 1
    left: int = 0


@dataclass(frozen=True)
class Windows:
    """The rows [B, H', W', c * h * w] that a convolution of x [B, C, H, W] multiplies.

    Outside of x they are 0.

    Attributes:
        batch: B, or None if it is known only at run time.
        whole: C, the channels of x.
        first: The first channel read.
        channels: c, how many are.
        rows: The axis H; ``Axis(1, 1)`` of a convolution along one axis.
        columns: The axis W.
        below: Zeros behind the rows.
        right: Zeros behind the columns.
    """

    batch: int | None
    whole: int
    first: int
    channels: int
    rows: Axis
    columns: Axis
    below: int
    right: int

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.channels * self.rows.taps * self.columns.taps
