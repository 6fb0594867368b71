"""Data to try a kernel on, and what must come out: the NumPy reference's results."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gq_tvm.ops import reference
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Schedule, family
from gq_tvm.tuning.task import Task

# Relative L2 errors: fp32 sums in another order; what a
# family that rounds its sums may lose.
_FP32 = 1e-5
_APPROXIMATE = 2e-2


class Case:
    """One call of a task's kernel.

    With int8 activations the data of a linear product are integers in disguise: their scales are
    1, or those of groups, so that a right kernel gives the output bit for bit. The first
    of several rows is zero, the last has the largest values there are.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        product = task.linear
        self._family = family(task.family)
        self._packed: dict[tuple[int, ...], list[NDArray]] = {}
        rng = np.random.default_rng([product.n, product.k, product.bits])
        shape, entries = (product.n, product.k), 2**product.bits
        indices = rng.integers(0, entries, shape, dtype=np.uint8, endpoint=False)
        exact, tables = product.activation == "int8", product.tables or product.groups
        if exact:
            codebook = rng.integers(-127, 128, (tables, entries)).astype(np.float32)
            codebook[:, :2] = (-127, 127)
        else:
            codebook = rng.standard_normal((tables, entries)).astype(np.float32)
        scale, zero = np.ones(1, np.float32), None
        if product.parted:
            scales = (product.n, product.groups) if product.group else (1,)
            scale = rng.uniform(1, 4, scales).astype(product.scale_type)
            zero = rng.uniform(1, 4, scales).astype(product.zero_type) if product.zero else None
        self.weight = Weight(indices, codebook if product.tables else codebook[None], scale, zero)
        self.inputs, self.expected = self._linear(rng)
        self.tolerance = _FP32
        if self._family.approximate:
            self.tolerance = _APPROXIMATE
        elif exact:
            self.tolerance = 0.0

    def _linear(self, rng: np.random.Generator) -> tuple[list[NDArray], list[NDArray]]:
        product = self.task.linear
        rows = product.usual_rows
        if product.activation == "int8":
            x = rng.integers(-127, 128, (rows, product.k)).astype(np.float32)
            x[:, 0] = 127
        else:
            x = rng.standard_normal((rows, product.k)).astype(np.float32)
        if rows > 1:
            x[0], x[-1] = 0, 127
        few = product.activation in ("int1", "int2")  # their levels depend on the whole row
        if few or (product.parted and product.activation != "fp32"):
            return [x], [reference.codebook_linear(x, self.weight, None, product.activation)]
        # float64 holds these integers exactly, and its product is the fast one.
        floats = self.weight.expand().astype(np.float64)
        return [x], [(x.astype(np.float64) @ floats.T).astype(np.float32)]

    def arguments(self, schedule: Schedule) -> tuple[list[NDArray], list[NDArray]]:
        """The arrays a kernel is called with: what it reads, and outputs full of a canary."""
        layout = self._family.layout(schedule)
        operands = self._packed.get(layout)
        if operands is None:
            self._packed.clear()  # of one layout only: they are large
            operands = self._packed[layout] = self._pack(schedule)
        outputs = [np.full(array.shape, 7e7, np.float32) for array in self.expected]
        return [*self.inputs, *operands], outputs

    def _pack(self, schedule: Schedule) -> list[NDArray]:
        choice = self.task.run(schedule)
        operands = self._family.pack(choice, self.weight)
        bias = np.zeros(choice.product.n, np.float32)
        return [*operands.values(), self._family.pack_bias(choice, bias)]

    def wrong(self, outputs: list[NDArray]) -> str:
        """Say in words how outputs differ from what must come out; "" if they do not."""
        for got, want in zip(outputs, self.expected, strict=True):
            if self.tolerance == 0:
                differing = int((got != want).sum())
                if differing:
                    return f"wrong result: {differing} of {want.size} values differ"
                continue
            size = float(np.linalg.norm(want)) or 1.0
            error = float(np.linalg.norm(got.astype(np.float64) - want)) / size
            if not error <= self.tolerance:
                return f"wrong result: relative L2 error {error:.2g}, at most {self.tolerance:g}"
        return ""
