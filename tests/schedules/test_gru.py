from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.kernel_harness import Kernels, device_for, target

from gq_tvm.errors import Error
from gq_tvm.ops import reference_recurrent
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Choice, Product, Schedule, family

#: (I, H, sequences, steps, steps known): whole groups and a ragged one, less than a vector; one
#: step, blocks and part of one, no step.
SHAPES = (
    (13, 37, 2, 1, True),
    (40, 64, 1, 4, True),
    (5, 37, 2, 19, False),
    (9, 150, 1, 2, True),
    (21, 3, 1, 0, True),
)

#: A vector family of each kind, and the scalar one; bits of both weights; the first is fast.
KERNELS = (
    ("x86-64-v3", "lookup", (4, 1)),
    ("x86-64-v4", "lookup", (8, 5)),
    ("x86-64-v4", "lookup_f32", (4, 1)),
    ("x86-64-v4", "table", (1, 1)),
    ("x86-64-v4", "dense_f32", (3, 2)),
    ("x86-64", "scalar", (6, 7)),
    ("arm", "lookup", (4, 1)),
    ("cortex-a76", "lookup_f32", (3, 2)),
)


class Case:
    """A layer of random weights, its kernel, and what that should compute."""

    def __init__(
        self, where, names, shape, bits, activation, *, parallel=False, per_row=False, size=1,
        vectors=(4, 4),
    ):  # fmt: skip
        width, hidden, batch, steps, known = shape
        rng = np.random.default_rng([*shape[:4], *bits])
        x_part, h_part = (
            Choice(
                where,
                Product(3 * hidden, k, n, activation, gates=3),
                family(name),
                Schedule(vectors=v) if name != "scalar" else Schedule(),
            )
            for k, n, name, v in zip((width, hidden), bits, names, vectors, strict=True)
        )
        self.kernel = h_part.family.recurrent(
            "gru", x_part, h_part, steps if known else None, parallel
        )
        self.activation, self.bits = activation, bits
        self.weights: list[Weight] = []
        self.biases: list[np.ndarray] = []
        self.operands: list[np.ndarray] = []
        packed_biases = []
        for part in (x_part, h_part):
            product = part.product
            indices = rng.integers(0, 2**product.bits, (product.n, product.k)).astype(np.uint8)
            codebook = (0.3 * rng.standard_normal((1, 2**product.bits))).astype(np.float32)
            if per_row:
                codebook = codebook * rng.uniform(0.5, 2, (product.n, 1)).astype(np.float32)
            self.weights.append(Weight.from_tables(indices, codebook, activation))
            packed = part.family.pack(part, self.weights[-1])
            self.operands += packed.values()
            self.biases.append(size * rng.standard_normal(3 * hidden).astype(np.float32))
            packed_biases.append(part.family.pack_bias(part, self.biases[-1]))
        self.operands += packed_biases
        self.inputs = [
            (size * rng.standard_normal(shape)).astype(np.float32)
            for shape in ((batch, steps, width), (batch, hidden))
        ]
        self.outputs = [(batch, steps, hidden), (batch, hidden)]

    def wanted(self):
        arguments: list[Any] = [*self.inputs, *self.weights, *self.biases, self.activation]
        return reference_recurrent.codebook_gru(*arguments)


def assert_close(got, case):
    wanted = case.wanted()
    for one, exact in zip(got, wanted, strict=True):
        # int8: a last-bit difference of h may round to the next of 127 steps.
        np.testing.assert_allclose(one, exact, atol=1e-2 if case.activation == "int8" else 2e-5)
    assert np.median(np.abs(got[1] - wanted[1])) < 1e-6


def run(where, emulated, cases):
    """What the kernels of `cases` compute, on what can run `where`'s code."""
    functions = {f"f{i}": case.kernel for i, case in enumerate(cases)}
    kernels = Kernels(where, device_for(where, emulated), functions)
    return [
        kernels(name, [*case.inputs, *case.operands], case.outputs)
        for name, case in zip(functions, cases, strict=True)
    ]


@pytest.mark.parametrize(
    ("where", "name", "bits"),
    [
        pytest.param(*one, marks=pytest.mark.slow if one is not KERNELS[0] else ())
        for one in KERNELS
    ],
)
def test_a_layer_computes_its_definition(where, name, bits, emulated):
    where = target(where)
    activation = "int8" if name in ("lookup", "table") else "fp32"
    cases = [Case(where, (name, name), shape, bits, activation) for shape in SHAPES]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        assert_close(got, case)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "activation"), [((1, 2), "int1"), ((2, 1), "int2")])
@pytest.mark.parametrize(("where", "name"), [("x86-64-v4", "xnor"), ("x86-64", "scalar")])
def test_a_layer_of_few_bits(where, name, bits, activation, emulated):
    where = target(where)
    cases = [Case(where, (name, name), shape, bits, activation) for shape in SHAPES[:2]]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        for one, exact in zip(got, case.wanted(), strict=True):
            # A last-bit difference of h may turn a sign: few values, but by far.
            assert np.median(np.abs(one - exact)) < 1e-5


@pytest.mark.parametrize("parallel", [pytest.param(False, marks=pytest.mark.slow), True])
def test_tiles_of_both_widths_and_scales_per_row(parallel, emulated):
    where = target("x86-64-v3")
    names = ("lookup_f32", "lookup_f32")
    case = Case(
        where, names, SHAPES[3], (3, 2), "fp32", per_row=True, vectors=(8, 4), parallel=parallel
    )
    (got,) = run(where, emulated, [case])
    assert_close(got, case)


def test_what_is_not_a_number_stays_one(emulated):
    """A NaN in the state of one sequence reaches all of its outputs, and no other sequence's."""
    where = target("x86-64-v3")
    case = Case(where, ("lookup", "lookup"), (13, 37, 2, 2, True), (4, 4), "int8")
    case.inputs[1][1, 5] = np.nan
    (got,) = run(where, emulated, [case])
    assert all(np.isnan(one[1]).all() for one in got)
    assert all(np.isfinite(one[0]).all() for one in got)


@pytest.mark.slow
def test_gates_at_their_ends(emulated):
    where = target("x86-64-v3")
    case = Case(where, ("lookup_f32", "lookup_f32"), SHAPES[0], (2, 2), "fp32", size=1e4)
    (got,) = run(where, emulated, [case])
    with np.errstate(over="ignore"):
        wanted = case.wanted()
    for one, exact in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-5)


def test_scalar_and_vector_kernels_do_not_mix():
    with pytest.raises(Error, match="cannot share a recurrent layer"):
        Case(target("x86-64-v3"), ("lookup", "scalar"), SHAPES[0], (2, 2), "int8")
    with pytest.raises(Error, match="cannot share a recurrent layer"):
        Case(target("x86-64-v3"), ("scalar", "lookup"), SHAPES[0], (2, 2), "int8")
