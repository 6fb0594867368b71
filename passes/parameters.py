"""What the passes take out of a module: its parameters and the table of its codebook layers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tvm.ir import GenericConst

from gq_tvm.plan.plan import Layer
from gq_tvm.schedules import Choice


@dataclass
class Parameters:
    """The arrays a module takes as named arguments, each content once.

    Attributes:
        names: What constants are called in the model, by `digest`.
        arrays: The parameters by name.
        packed: The weights in codebooks of each call that was packed so far.
        uses: By kernel: the layers it computes, their names and their weights.
        choices: How the calls of codebook operators are computed: by their attribute ``choice``,
            for each part of `operators.WEIGHTS`.
    """

    names: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, NDArray] = field(default_factory=dict)
    packed: list[tuple[Layer, ...]] = field(default_factory=list)
    uses: dict[str, list[tuple[str, tuple[Layer, ...]]]] = field(default_factory=dict)
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
