"""What a kernel family is: one way to multiply by a weight matrix kept in a codebook.

A family declines what it cannot do, packs the weight for its kernels, and writes the kernels as
PrimFuncs. The passes know nothing else of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import log2
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from gq_tvm.errors import Error
from gq_tvm.ops.checks import kept_as
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules.epilogue import Epilogue
from gq_tvm.schedules.schedule import Knob, Schedule
from gq_tvm.schedules.windows import Windows
from gq_tvm.targets import Target

#: ``relax.OpPatternKind`` of a finished kernel: no fusion pass looks inside.
OPAQUE = 8

#: Rows to expect where they are only known at run time.
USUAL_ROWS = 16

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
            i, f, g, o), 3 of a GRU (r, z, n), 1 of an RNN; else 0.
        glu: The product ends in a gated linear unit: n is even, the outputs are n / 2.
        group: Inputs that share a scale: 16, 32, 64 or 128, the last of a row may be fewer; 0 if
            all do.
        zero: Whether the weight has zero points, one for each scale.
        tables: Codebooks, of which each is that of n / tables rows; 0 if each group of inputs has
            its own.
        scale_type: dtype of the scales in memory: ``"float32"``, or of groups also ``"float16"`` or
            ``"uint8"``.
        zero_type: That of the zero points.
        outliers: dtype of what the weight's outliers add, ``"float16"`` or ``"float32"``; "" if it
            has none.
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
    scale_type: str = "float32"
    zero_type: str = "float32"
    outliers: str = ""

    @property
    def groups(self) -> int:
        """Groups of inputs."""
        return -(-self.k // self.group) if self.group else 1

    @property
    def parted(self) -> bool:
        """Whether a kernel adds groups up in fp32, each with its scale and its zero point."""
        return self.group > 0 or self.zero

    @property
    def narrow(self) -> bool:
        """Whether scales or zero points are not floats of 32 bits: kernels widen and join them."""
        return (self.scale_type, self.zero_type) != ("float32", "float32")

    @property
    def plain(self) -> bool:
        """Whether one codebook and a scale for each row are all there is."""
        return not self.parted and self.tables == 1

    def of(self, weight: Weight) -> Product:
        """The same product of a weight that has scales, zero points, tables and outliers so."""
        outliers = weight.outliers
        return replace(
            self,
            group=weight.group,
            zero=weight.zero is not None,
            tables=0 if weight.codebook.ndim == 3 and weight.group else weight.codebook.shape[-2],
            scale_type=kept_as(weight.scale, weight.groups),
            zero_type=kept_as(weight.zero, weight.groups),
            outliers=str(outliers.values.dtype) if outliers and len(outliers.values) else "",
        )

    @property
    def sizes(self) -> str:
        """Its sizes in words: ``4096x1024, 1 row``."""
        rows = {None: "any rows", 1: "1 row"}.get(self.rows, f"{self.rows} rows")
        return f"{self.n}x{self.k}, {rows}"

    @property
    def usual_rows(self) -> int:
        """Its rows, or how many to expect."""
        return USUAL_ROWS if self.rows is None else self.rows

    @property
    def outputs(self) -> int:
        """Outputs of a linear kernel."""
        return self.n // 2 if self.glu else self.n

    @property
    def fits_int32(self) -> bool:
        """Whether the integer sums of this product cannot overflow."""
        return self.activation == "fp32" or self.k <= MOST_INT8_K


@dataclass(frozen=True)
class Frames:
    """The frames that the kernel of a recurrent layer goes over.

    Attributes:
        steps: Their number T, None if known only at run time.
        reverse: Whether the last comes first.
        lengths: Whether each sequence has a number of its own.
    """

    steps: int | None = None
    reverse: bool = False
    lengths: bool = False


#: Fields that files leave out where they are as mostly: those written before there were such stay.
_LATER = {
    one.name: one.default
    for one in fields(Product)
    if one.name in ("scale_type", "zero_type", "outliers")
}


def written(product: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a product, or of more than that, as files have them."""
    return {name: value for name, value in product.items() if _LATER.get(name, ...) != value}


class Family(ABC):
    """A kernel family.

    Attributes:
        name: What ``--kernel`` and ``inspect`` call it.
        loops: What its kernels are made of: the two products of a recurrent layer can be by
            families with the same loops.
        knobs: Those of its schedules.
        approximate: Its results are off by more than rounding: taken only by name.
        baseline: There to be compared with: taken only by name.
    """

    name: str
    loops: ClassVar[str]
    knobs: ClassVar[tuple[Knob, ...]] = ()
    approximate: bool = False
    baseline: bool = False

    @property
    def only_by_name(self) -> bool:
        """Whether it is taken by those alone who ask for it."""
        return self.approximate or self.baseline

    def arithmetic(self, product: Product) -> str:
        """What its kernels of `product` compute with, spelled as ``Product.activation``."""
        return product.activation

    def exact(self, product: Product) -> bool:
        """Whether it computes `product` in the arithmetic it was trained for."""
        return not self.approximate and product.activation == self.arithmetic(product)

    @abstractmethod
    def supports(self, target: Target, product: Product) -> bool:
        """Whether this family has kernels for `product` on `target`."""

    def space(self, target: Target, product: Product) -> list[Schedule]:
        """The schedules worth trying for `product`, the one to take untried first."""
        return [Schedule()]

    def schedule(self, knobs: Mapping[str, int]) -> Schedule:
        """A schedule that has all knobs of this family, those not among `knobs` by default.

        Raises:
            Error: one of `knobs` is not this family's.
        """
        own = Schedule(**{one.name: knobs.get(one.name, one.default) for one in self.knobs})
        if strange := knobs.keys() - own.keys():
            known = ", ".join(own) or "none"
            raise Error(f"kernel {self.name} has no {', '.join(sorted(strange))} to set: {known}")
        return own

    def layout(self, schedule: Schedule) -> tuple[int, ...]:
        """What of a schedule a weight is packed by: equal for schedules that can share one."""
        return tuple(schedule[one.name] for one in self.knobs if one.layout)

    def features(self, choice: Choice) -> list[float]:
        """What a tuner may learn from a schedule; as many for every choice of a kind of family."""
        return [log2(1 + value) for value in choice.schedule.values()]

    @abstractmethod
    def pack(self, choice: Choice, weight: Weight) -> dict[str, NDArray]:
        """Lay a weight out for the kernels.

        Args:
            choice: Of the product the weight takes part in.
            weight: It.

        Returns:
            The kernels' operands, in the order they take them.

        Raises:
            Error: the weight is of a form that this family does not take.
        """

    def pack_bias(self, choice: Choice, bias: NDArray) -> NDArray[np.float32]:
        """Lay a bias f32 [N] out for the kernels: f32 [Np], in the order of the packed rows."""
        return bias.astype(np.float32)

    @abstractmethod
    def linear(
        self,
        choice: Choice,
        epilogue: Epilogue | None = None,
        parallel: bool = False,
        windows: Windows | None = None,
    ) -> tirx.PrimFunc:
        """The kernel of ``y = residual + scale * activation(x W^T + bias)``.

        Its arguments: x f32 [m, K], the operands, bias f32 [Np], residual f32 [m, outputs] if the
        epilogue has one, y f32 [m, outputs] (output). No epilogue stores ``x W^T + bias``.
        `parallel` lets it use the runtime's threads. With `windows`, along one axis, x is f32
        [B, C, 1, T] and its windows are the rows.
        """

    def recurrent(
        self, name: str, parts: Sequence[Choice], frames: Frames, parallel: bool = False
    ) -> tirx.PrimFunc:
        """The kernel of a recurrent layer over all its steps; asked of the h-part's family.

        Its arguments: x f32 [B, T, I], each part of the old state (h f32 [B, P], of an LSTM also c
        f32 [B, H]), the operands of each part, the biases f32 [Np], lengths i64 [B] if `frames` has
        them, and the outputs y f32 [B, T, P] and each part of the new state. B is symbolic.

        Args:
            name: One of ``ops.checks_recurrent.LAYERS``.
            parts: The products by its weights: of the input (n = gates * H, k = I), of the state
                (k = P), and of a projected LSTM what its h is projected by (n = P, k = H).
            frames: Which there are.
            parallel: Whether it may use the runtime's threads.

        Raises:
            Error: the families of the products cannot share a kernel.
        """
        for part in parts:
            if part.family.loops != self.loops:
                raise Error(
                    f"kernels {part.family.name} and {self.name} cannot share a recurrent layer; "
                    "ask for one kernel with --kernel"
                )
        return self._recurrent(name, parts, frames, parallel)

    @abstractmethod
    def _recurrent(
        self, name: str, parts: Sequence[Choice], frames: Frames, parallel: bool
    ) -> tirx.PrimFunc:
        """See `recurrent`; all families have the same loops."""


@dataclass(frozen=True)
class Choice:
    """How a product is computed.

    Attributes:
        target: The device the kernel runs on.
        product: What is computed.
        family: The family chosen for it.
        schedule: That of the family's kernel: knobs left out have their defaults.
        origin: Whence that is known: ``"measured"``, ``"modelled"`` (tuned with no such device at
            hand), ``"nearest: ..."``, ``"nearest modelled: ..."``, ``"model"``, ``"asked for"``,
            ``"packed as for ..."``.
    """

    target: Target
    product: Product
    family: Family
    schedule: Schedule = field(default_factory=Schedule)
    origin: str = field(default="", compare=False)

    @property
    def arithmetic(self) -> str:
        """What the kernel computes with."""
        return self.family.arithmetic(self.product)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", self.family.schedule(self.schedule))
