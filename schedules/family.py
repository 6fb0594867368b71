"""What a kernel family is: one way to multiply by a weight matrix kept in a codebook.

A family declines what it cannot do, packs the weight for its kernels, and writes the kernels as
PrimFuncs. The passes know nothing else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.ops.reference import common_codebook
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.schedule import Schedule
from gq_tvm.targets import Target

#: ``relax.OpPatternKind`` of a finished kernel: no fusion pass looks inside.
OPAQUE = 8

#: Longest int8 row whose sum of products of [-127, 127] is sure to fit int32.
MOST_INT8_K = (2**31 - 1) // 127**2


@dataclass(frozen=True)
class Product:
    """A weight matrix product as a kernel sees it.

    Attributes:
        n: Rows of the weight, the outputs.
        k: Columns of the weight, the inputs.
        bits: Bits of an index, 1 to 8.
        activation: ``"int8"`` (quantised per row inside the kernel) or ``"fp32"``.
        rows: Rows of the activations; None if known only at run time.
        recurrent: The product is the h-part of an LSTM (n = 4H, k = H), done by `recurrence`.
        glu: The product ends in a gated linear unit: n is even, the outputs are n / 2.
    """

    n: int
    k: int
    bits: int
    activation: str
    rows: int | None = None
    recurrent: bool = False
    glu: bool = False

    @property
    def outputs(self) -> int:
        """Outputs of a linear kernel."""
        return self.n // 2 if self.glu else self.n

    @property
    def fits_int32(self) -> bool:
        """Whether the integer sums of this product cannot overflow."""
        return self.activation != "int8" or self.k <= MOST_INT8_K


class Family(ABC):
    """A kernel family; `name` is what ``--kernel`` and ``inspect`` call it."""

    name: str

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
        self, target: Target, product: Product, schedule: Schedule, bias: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Lay a bias f32 [N] out for the kernels: f32 [Np], in the order of the packed rows."""
        return bias

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
    def recurrence(
        self, target: Target, product: Product, schedule: Schedule, parallel: bool = False
    ) -> tirx.PrimFunc:
        """The kernel of an LSTM layer's recurrence over all its steps (n = 4H, k = H).

        Its arguments: gates_x f32 [B, T, 4H] (input part and bias), h0 f32 [B, H], c0 f32 [B, H],
        the operands, and the outputs y f32 [B, T, H], h f32 [B, H], c f32 [B, H]. B and T are
        symbolic. Gates come in PyTorch's order i, f, g, o.
        """


def shared_codebook(
    product: Product, codebook: NDArray[np.float32]
) -> tuple[NDArray, NDArray[np.float32]]:
    """Split a codebook into the table all rows share and a scale for each of the N rows.

    Returns:
        ``table`` [2^bits], int8 if the product's activations are int8 and f32 in [-1, 1]
        otherwise, and ``scale`` f32 [N].

    Raises:
        Error: the rows are not multiples of one codebook.
    """
    shape, scale = common_codebook(codebook, product.activation)
    table = shape.astype(np.int8) if product.activation == "int8" else shape
    return table, np.ascontiguousarray(np.broadcast_to(scale, (product.n,)))
