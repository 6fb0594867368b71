"""A plan: what a compiled model is, as data that knows neither TVM nor any machine's code.

Of each function it says the values, where they lie and how large they are, and the calls of kernels
in their order; of each call, which layer it computes, how that was chosen, and what is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from gq_tvm.plan.size import Named, Shape, Size, evaluate, named

KINDS = ("input", "weight", "constant", "temporary", "output", "view")


@dataclass(frozen=True)
class Use:
    """The product a kernel family computes with a weight; see ``schedules.Product``.

    Attributes:
        activation: What the layer was trained for, one of ``ops.checks.ACTIVATIONS``.
        rows: Rows of the activations; None if known only at run time.
        gates: Of a recurrent layer; else 0.
        glu: Whether it ends in a gated linear unit.
        group: Inputs that share a scale; 0 where a row has one.
        zero: Whether each group has a zero point.
        tables: Codebooks that share out its rows; 0 where each group of inputs has one.
        scale_type: dtype of the scales in memory.
        zero_type: dtype of the zero points in memory.
    """

    activation: str
    rows: int | None = None
    gates: int = 0
    glu: bool = False
    group: int = 0
    zero: bool = False
    tables: int = 1
    scale_type: str = "float32"
    zero_type: str = "float32"


@dataclass(frozen=True)
class Layer:
    """A weight in a codebook, as a kernel uses it.

    Attributes:
        name: The layer's name in the model.
        kind: ``"linear"``, ``"lstm"``, ``"gru"``, ``"embedding"`` or ``"conv1d"``; a convolution in
            one group is ``"linear"``, a depthwise one ``"conv1d"``.
        shape: The weight's shape.
        bits: Bits of an index.
        activation: One of ``ops.checks.ACTIVATIONS``: what is computed in.
        kernel: The kernel family.
        parameters: Names of the operands the kernel reads.
        schedule: Its knobs, "" where it has none.
        origin: Whence family and schedule are known: ``"measured"``, ``"modelled"`` (tuned with no
            such device at hand), ``"nearest: ..."``, ``"nearest modelled: ..."``, ``"model"``,
            ``"asked for"``; "" where there was no choice.
        use: What is multiplied; None if the kernel is of no family.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    activation: str
    kernel: str
    parameters: tuple[str, ...]
    schedule: str = ""
    origin: str = ""
    use: Use | None = None

    @property
    def float_bytes(self) -> int:
        """Bytes of the weight in float32."""
        return 4 * prod(self.shape)


@dataclass(frozen=True)
class Value:
    """A tensor: given, made by a kernel, or another one in a new shape.

    Attributes:
        kind: One of `KINDS`. A view has the memory of the value it is of; outputs outlive a call.
        dtype: As NumPy calls it.
        shape: Its sizes.
        where: The number of an input, the offset of a weight in its file (bytes), the slot of a
            temporary, the number of the value viewed; else 0.
        name: Of an input or a weight.
        data: The bytes of a constant.
    """

    kind: str
    dtype: str
    shape: Shape
    where: int = 0
    name: str = ""
    data: bytes = b""

    @property
    def bytes(self) -> int:
        """Of a value whose sizes are all numbers."""
        return np.dtype(self.dtype).itemsize * prod(evaluate(one, {}) for one in self.shape)


@dataclass(frozen=True)
class Operand:
    """A value that a call reads or writes, by its number."""

    value: int
    written: bool = False


@dataclass(frozen=True)
class Call:
    """A call of a kernel.

    Attributes:
        kernel: Its symbol in the library.
        arguments: What it takes, in order: values, and sizes.
        layer: The layer it computes, "" if none: a recurrent one has two weights.
        layers: These weights.
    """

    kernel: str
    arguments: tuple[Operand | Size, ...]
    layer: str = ""
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: Its name in the exported program; outputs are called ``output_0``, ...
        dtype: E.g. ``"float32"``.
        shape: Its sizes.
    """

    name: str
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"{self.name} {self.dtype} [{sizes}]"


@dataclass(frozen=True)
class Function:
    """A compiled function.

    Attributes:
        name: Its name.
        values: What it handles, by number; a view is behind what it views.
        returned: The numbers of its outputs.
        calls: The calls of kernels, in their order.
        slots: How many pieces of memory its temporaries share.
        single: Whether it returns its one output bare rather than in a tuple.
    """

    name: str
    values: tuple[Value, ...]
    returned: tuple[int, ...]
    calls: tuple[Call, ...]
    slots: int
    single: bool

    @cached_property
    def inputs(self) -> list[Tensor]:
        """What it takes, in order."""
        given = sorted(self.of_kind("input"), key=lambda one: one.where)
        return [Tensor(one.name, one.dtype, one.shape) for one in given]

    @cached_property
    def outputs(self) -> list[Tensor]:
        """What it returns, in order."""
        made = [self.values[number] for number in self.returned]
        return [Tensor(f"output_{i}", one.dtype, one.shape) for i, one in enumerate(made)]

    @cached_property
    def sizes(self) -> dict[str, Named]:
        """The sizes that its inputs tell, by name."""
        found = [one for tensor in self.inputs for size in tensor.shape for one in named(size)]
        return {one.name: one for one in found}

    @cached_property
    def weights(self) -> dict[str, Value]:
        """The weights it reads, by name."""
        return {one.name: one for one in self.of_kind("weight")}

    def of_kind(self, kind: str) -> Iterator[Value]:
        """The values of a kind, one of `KINDS`."""
        return (one for one in self.values if one.kind == kind)

    def root(self, number: int) -> int:
        """The value in whose memory a value lies."""
        while self.values[number].kind == "view":
            number = self.values[number].where
        return number


@dataclass(frozen=True)
class Content:
    """What a file holds, to notice a copy that was cut, padded or altered: bytes and a CRC-32."""

    size: int
    crc: int


@dataclass(frozen=True)
class Plan:
    """A compiled model.

    Attributes:
        machine: ``Target.machine`` of the kernels.
        features: What they need of its CPU.
        functions: By name.
        metadata: Words of a recogniser's description, by name.
        runtime: Functions of TVM's runtime that the kernels call: only TVM can run them then.
        weights: The file of the weights; None until it is written.
        kernels: The library of the kernels; None until it is written.
    """

    machine: str
    features: tuple[str, ...]
    functions: dict[str, Function]
    metadata: dict[str, tuple[str, ...]] = field(default_factory=dict)
    runtime: tuple[str, ...] = ()
    weights: Content | None = None
    kernels: Content | None = None

    @cached_property
    def layers(self) -> list[Layer]:
        """The weights in codebooks, each once in a layout, in the order of their first use."""
        found: dict[tuple[str, tuple[str, ...]], Layer] = {}
        for one in self.uses:
            found.setdefault((one.name, one.parameters), one)
        return list(found.values())

    @property
    def uses(self) -> list[Layer]:
        """The same, each once for each way it is used: for so many rows, with such a schedule."""
        calls = (call for function in self.functions.values() for call in function.calls)
        return list(dict.fromkeys(layer for call in calls for layer in call.layers))

    @cached_property
    def parameter_bytes(self) -> dict[str, int]:
        """Bytes of every weight, by name."""
        return {
            name: value.bytes
            for function in self.functions.values()
            for name, value in function.weights.items()
        }

    @cached_property
    def owners(self) -> dict[Layer, str]:
        """Of each layer whose packed weight is an earlier layer's: that layer's name."""
        first: dict[str, str] = {}
        for one in self.layers:
            first.setdefault(one.parameters[0], one.name)
        owners = {one: first[one.parameters[0]] for one in self.layers}
        return {one: owner for one, owner in owners.items() if owner != one.name}

    def bytes_of(self, parameters: Iterable[str]) -> int:
        """Bytes of weights, by their names."""
        return sum(self.parameter_bytes[name] for name in parameters)
