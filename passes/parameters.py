"""What the passes take out of a module: its parameters and the table of its codebook layers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.ir import GenericConst

from gq_tvm.schedules import Choice, Product


@dataclass
class Layer:
    """A weight in a codebook, as ``inspect`` shows it.

    Attributes:
        name: The layer's name in the model.
        kind: ``"linear"``, ``"lstm"``, ``"gru"``, ``"embedding"`` or ``"conv1d"``; a convolution in
            one group is ``"linear"``, a depthwise one ``"conv1d"``.
        shape: The weight's shape.
        bits: Bits of an index.
        activation: one of ``ops.checks.ACTIVATIONS``.
        kernel: The kernel family.
        schedule: Its knobs, "" where it has none.
        parameters: Names of the operands the kernel reads.
        bytes: Bytes of those operands.
        tied_to: The layer whose packed weight this one uses, or None if it has its own.
        origin: Whence family and schedule are known, see `Choice`; "" where there was no choice.
        call: How to call its kernel alone: the ``layer`` it computes (a recurrent one reads two
            weights), its ``symbol`` in the library, ``arguments`` and ``outputs``. An argument is a
            parameter's name or ``[dtype, size, ...]``; sizes known only at run time are strings.
    """

    name: str
    kind: str
    shape: list[int]
    bits: int
    activation: str
    kernel: str
    schedule: str
    parameters: list[str]
    bytes: int
    tied_to: str | None = None
    origin: str = ""
    call: dict[str, Any] = field(default_factory=dict)

    @property
    def float_bytes(self) -> int:
        """Bytes of the weight in float32."""
        return 4 * int(np.prod(self.shape))


@dataclass
class Parameters:
    """The arrays a module takes as named arguments, each content once.

    Attributes:
        names: What constants are called in the model, by `digest`.
        arrays: The parameters by name.
        layers: The codebook layers packed so far.
        products: The weight matrix products that kernel families compute, call by call.
        choices: How the calls of codebook operators are computed: by their attribute ``choice``,
            for each part of `operators.WEIGHTS`.
    """

    names: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, NDArray] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    choices: dict[str, dict[str, Choice]] = field(default_factory=dict)
    _by_content: dict[str, str] = field(default_factory=dict)

    def choose(self, layer: str, parts: dict[str, Choice]) -> str:
        """Keep how a call of `layer` is computed, and return where: by another name if need be."""
        key, count = layer, 1
        while self.choices.setdefault(key, parts) != parts:
            count += 1
            key = f"{layer} ({count})"
        return key

    def add(self, name: str, array: NDArray) -> str:
        """Keep `array`, and return its name: `name`, or that of an equal array kept before."""
        content = digest(array)
        if content not in self._by_content:
            self._by_content[content] = name = self._free(name)
            self.arrays[name] = np.ascontiguousarray(array)
        return self._by_content[content]

    def name_of(self, constant: GenericConst, otherwise: str) -> str:
        """What the model calls `constant`, or `otherwise` if it does not know it."""
        return self.names.get(digest(constant.value.numpy()), otherwise)

    def _free(self, name: str) -> str:
        candidate, count = name, 1
        while candidate in self.arrays:
            count += 1
            candidate = f"{name}.{count}"
        return candidate


def digest(array: NDArray) -> str:
    """A key of an array's dtype, shape and bytes."""
    header = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()
