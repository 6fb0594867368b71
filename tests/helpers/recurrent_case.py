"""A recurrent layer of given weights: its kernel, inputs, outputs, and what it should give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gq_tvm.ops import reference_recurrent
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Choice, Frames, Product, Schedule, family
from gq_tvm.targets import Target
from helpers.kernel_harness import Kernels

GATES = {"lstm": 4, "gru": 3}
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
    shape: tuple[int, int, int, int],
    draw: Callable[[np.random.Generator, int, int, int], Weight],
) -> tuple[Any, list[Any], list[tuple[int, ...]], Any]:
    """A layer of width, hidden states, sequences and steps of ``shape``.

    ``draw(rng, rows, width, part)`` makes the weight of a part, 3 bits: 0 of x, 1 of the state.
    """
    width, hidden, batch, steps = shape
    gates, states = GATES[cell], 2 if cell == "lstm" else 1
    rng = np.random.default_rng([*shape, gates])
    parts, weights = [], []
    for number, k in enumerate((width, hidden)):
        weights.append(draw(rng, gates * hidden, k, number))
        product = Product(gates * hidden, k, 3, activation, gates=gates).of(weights[-1])
        parts.append(Choice(where, product, family(name), Schedule()))
    biases = [rng.standard_normal(gates * hidden).astype(np.float32) for _ in range(3 - states)]
    kernel = family(name).recurrent(cell, parts[0], parts[1], Frames(steps))
    operands = [
        one
        for part, weight in zip(parts, weights, strict=True)
        for one in part.family.pack(part, weight).values()
    ]
    packed = [part.family.pack_bias(part, one) for part, one in zip(parts, biases, strict=False)]
    x = rng.standard_normal((batch, steps, width)).astype(np.float32)
    state = [rng.standard_normal((batch, hidden)).astype(np.float32) for _ in range(states)]
    define: dict[str, Any] = {
        "lstm": reference_recurrent.codebook_lstm,
        "gru": reference_recurrent.codebook_gru,
    }
    wanted = define[cell](x, *state, *weights, *biases, activation)
    outputs = [(*x.shape[:2], hidden), *(one.shape for one in state)]
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
