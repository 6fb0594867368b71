"""What a kernel family is: one way to multiply by a weight matrix kept in a codebook.

A family declines what it cannot do, packs the weight for its kernels, and writes the kernels as
PrimFuncs. The passes know nothing else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.ops.reference import common_codebook
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target

#: ``relax.OpPatternKind`` of a finished kernel: no fusion pass looks inside.
OPAQUE = 8

#: Longest row of integers whose sums are sure to fit int32: of products of [-127, 127], and of a
#: mean's steps.
MOST_INT8_K = (2**31 - 1) // 127**2


@dataclass(frozen=True)
class Product:
    """A weight matrix product as a kernel sees it.

    Attributes:
        n: Rows of the weight, the outputs.
        k: Columns of the weight, the inputs.
        bits: Bits of an index, 1 to 8.
        activation: ``"fp32"``, or what the kernel rounds each row to: ``"int8"``, ``"int2"`` or
            ``"int1"``.
        rows: Rows of the activations; None if known only at run time.
        gates: Of a product of a recurrent layer, n = gates * H: 4 of an LSTM (in PyTorch's order
            i, f, g, o), computed by the kernel `lstm`, 3 of a GRU (r, z, n), by `gru`; else 0.
        glu: The product ends in a gated linear unit: n is even, the outputs are n / 2.
        group: Inputs that share a scale: 16, 32, 64 or 128, the last of a row may be fewer; 0 if
            all do.
        zero: Whether the weight has zero points, one for each scale.
        tables: Codebooks, of which each is that of n / tables rows; 0 if each group of inputs has
            its own.
    """

    n: int
    k: int
    bits: int
    activation: str
    rows: int | None = None
    gates: int = 0
    glu: bool = False
    group: int = 0
    zero: bool = False
    tables: int = 1

    @property
    def groups(self) -> int:
        """Groups of inputs."""
        return -(-self.k // self.group) if self.group else 1

    @property
    def parted(self) -> bool:
        """Whether a kernel adds groups up in fp32, each with its scale and its zero point."""
        return self.group > 0 or self.zero

    @property
    def plain(self) -> bool:
        """Whether one codebook and a scale for each row are all there is."""
        return not self.parted and self.tables == 1

    @property
    def sizes(self) -> str:
        """Its sizes in words: ``4096x1024, 1 row``."""
        rows = {None: "any rows", 1: "1 row"}.get(self.rows, f"{self.rows} rows")
        return f"{self.n}x{self.k}, {rows}"

    @property
    def outputs(self) -> int:
        """Outputs of a linear kernel."""
        return self.n // 2 if self.glu else self.n

    @property
    def fits_int32(self) -> bool:
        """Whether the integer sums of this product cannot overflow."""
        return self.activation == "fp32" or self.k <= MOST_INT8_K


class Levels(NamedTuple):
    """What a kernel takes of a weight beside its indices.

    Attributes:
        table: [T, 2^bits], int8 or float32.
        scale: float32 [N, groups], what a group's sum is multiplied by.
        zero: float32 [N, groups], what the sum of its activations is multiplied by and taken away;
            None for 0.
        of_row: int64 [N], the table of each row, where rows share tables out; else None.
    """

    table: NDArray
    scale: NDArray[np.float32]
    zero: NDArray[np.float32] | None = None
    of_row: NDArray[np.int64] | None = None


class Family(ABC):
    """A kernel family.

    Attributes:
        name: What ``--kernel`` and ``inspect`` call it.
        approximate: Its results are off by more than rounding: taken only by name.
        baseline: There to be compared with: taken only by name.
    """

    name: str
    approximate: bool = False
    baseline: bool = False

    def exact(self, product: Product) -> bool:
        """Whether it computes `product` in the arithmetic it was trained for."""
        return not self.approximate

    def shares(self, other: Family) -> bool:
        """Whether the products of a recurrent layer can be one by this family, one by `other`."""
        return self == other

    @abstractmethod
    def supports(self, target: Target, product: Product) -> bool:
        """Whether this family has kernels for `product` on `target`."""

    def space(self, target: Target, product: Product) -> list[Schedule]:
        """The schedules worth trying for `product`, the one to take untried first."""
        return [Schedule()]

    @abstractmethod
    def pack(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        indices: NDArray[np.uint8],
        codebook: NDArray[np.float32],
    ) -> dict[str, NDArray]:
        """Lay a weight out for the kernels.

        Args:
            target: The device the kernels run on.
            product: The product the weight takes part in.
            schedule: That of the kernels.
            indices: u8 [N, K].
            codebook: f32 [1 or N, 2^bits].

        Returns:
            The kernels' operands, in the order they take them.

        Raises:
            Error: the codebook's rows are not multiples of one codebook.
        """

    def pack_bias(
        self, target: Target, product: Product, schedule: Schedule, bias: NDArray
    ) -> NDArray[np.float32]:
        """Lay a bias f32 [N] out for the kernels: f32 [Np], in the order of the packed rows."""
        return bias.astype(np.float32)

    @abstractmethod
    def linear(
        self,
        target: Target,
        product: Product,
        schedule: Schedule,
        epilogue: Epilogue | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        """The kernel of ``y = residual + scale * activation(x W^T + bias)``.

        Its arguments: x f32 [m, K], the operands, bias f32 [Np], residual f32 [m, outputs] if the
        epilogue has one, y f32 [m, outputs] (output). No epilogue stores ``x W^T + bias``.
        `parallel` lets it use the runtime's threads.
        """

    @abstractmethod
    def lstm(
        self,
        target: Target,
        x_part: Choice,
        h_part: Choice,
        steps: int | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        """The kernel of an LSTM layer over all its steps.

        Its arguments: x f32 [B, T, I], h0 f32 [B, H], c0 f32 [B, H], the operands of the x-part
        (n = 4H, k = I), those of the h-part (n = 4H, k = H), bias f32 [Np], and the outputs y f32
        [B, T, H], h f32 [B, H], c f32 [B, H]. B is symbolic, T is `steps`, or symbolic for None.
        Asked of the family of the h-part.

        Raises:
            Error: the families of the two products cannot share a kernel.
        """

    @abstractmethod
    def gru(
        self,
        target: Target,
        x_part: Choice,
        h_part: Choice,
        steps: int | None,
        parallel: bool = False,
    ) -> tirx.PrimFunc:
        """The kernel of a GRU layer over all its steps; as `lstm`, but for its arguments.

        These are x f32 [B, T, I], h0 f32 [B, H], the operands of the x-part (n = 3H, k = I), those
        of the h-part (n = 3H, k = H), the bias of each part, f32 [Np], and the outputs y f32
        [B, T, H] and h f32 [B, H].
        """


@dataclass(frozen=True)
class Choice:
    """How a product is computed.

    Attributes:
        product: What is computed.
        family: The family chosen for it.
        schedule: The schedule of that family's kernel.
    """

    product: Product
    family: Family
    schedule: Schedule


def shared_codebook(
    product: Product, codebook: NDArray[np.float32]
) -> tuple[NDArray, NDArray[np.float32]]:
    """Split a codebook into the table all rows share and a scale for each of the N rows.

    Returns:
        ``table`` [2^bits], f32 in [-1, 1] if the product's activations are fp32 and int8
        otherwise, and ``scale`` f32 [N].

    Raises:
        Error: the rows are not multiples of one codebook.
    """
    shape, scale = common_codebook(codebook, product.activation)
    table = shape if product.activation == "fp32" else shape.astype(np.int8)
    return table, np.ascontiguousarray(np.broadcast_to(scale, (product.n,)))
