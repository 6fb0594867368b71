"""A recurrent layer of given weights: its kernel, inputs, outputs, and what it should give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gq_tvm.ops.checks_recurrent import LAYERS
from gq_tvm.ops.reference_recurrent import codebook_recurrent
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Choice, Frames, Product, Schedule, family
from gq_tvm.targets import Target
from helpers.kernel_harness import Kernels

#: A target of each kind, with a family and the activations it takes there.
MACHINES = [
    ("x86-64-v4", "lookup", "int8"),
    ("x86-64-v3", "lookup", "int8"),
    ("x86-64", "scalar", "int8"),
    ("cortex-a510", "lookup", "int8"),
    ("arm", "lookup_f32", "fp32"),
    ("cortex-a7", "lookup", "int8"),
]


def recurrent_case(
    where: Target,
    name: str,
    cell: str,
    activation: str,
    shape: tuple[int, ...],
    draw: Callable[[np.random.Generator, int, int, int], Weight],
) -> tuple[Any, list[Any], list[tuple[int, ...]], Any]:
    """A layer of width, hidden states, sequences, steps and a projection's size of ``shape``.

    ``draw(rng, rows, width, part)`` makes the weight of a part, 3 bits: 0 of x, 1 of the state,
    2 of the projection.
    """
    width, hidden, batch, steps, *projected = shape
    kind = LAYERS[cell]
    gates, size = kind.gates, projected[0] if projected else hidden
    rng = np.random.default_rng([*shape, gates])
    parts, weights = [], []
    sizes = ((gates * hidden, width), (gates * hidden, size), (size, hidden))
    for number, (rows, k) in enumerate(sizes[: len(kind.parts)]):
        weights.append(draw(rng, rows, k, number))
        product = Product(rows, k, 3, activation, gates=gates if number < 2 else 0)
        parts.append(Choice(where, product.of(weights[-1]), family(name), Schedule()))
    biases = [rng.standard_normal(gates * hidden).astype(np.float32) for _ in kind.biases]
    kernel = family(name).recurrent(cell, parts, Frames(steps))
    operands = [
        one
        for part, weight in zip(parts, weights, strict=True)
        for one in part.family.pack(part, weight).values()
    ]
    packed = [part.family.pack_bias(part, one) for part, one in zip(parts, biases, strict=False)]
    x = rng.standard_normal((batch, steps, width)).astype(np.float32)
    widths = (size, hidden)[: len(kind.states)]
    state = [rng.standard_normal((batch, one)).astype(np.float32) for one in widths]
    wanted = codebook_recurrent(cell, x, state, weights, biases, activation)
    outputs = [(*x.shape[:2], size), *(one.shape for one in state)]
    return kernel, [x, *state, *operands, *packed], outputs, wanted


def assert_layers_computed(
    where: Target,
    device: Any,
    layers: list[tuple[Any, list[Any], list[tuple[int, ...]], Any]],
    activation: str,
) -> None:
    """Run the kernels of `recurrent_case`s, and compare with what they should give."""
    functions = {f"f{i}": one[0] for i, one in enumerate(layers)}
    kernels = Kernels(where, device, functions)
    for name, (_, inputs, outputs, wanted) in zip(functions, layers, strict=True):
        for got, exact in zip(kernels(name, inputs, outputs), wanted, strict=True):
            # int8: a last-bit difference of h may round to the next of 127 steps.
            np.testing.assert_allclose(got, exact, atol=5e-3 if activation == "int8" else 2e-5)
