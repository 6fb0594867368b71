from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.kernel_harness import BASELINE, FP32, INT8, TABLES, XNOR, Kernels, device_for, target

from gq_tvm.errors import Error
from gq_tvm.ops import reference_recurrent
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Choice, Product, Schedule, family

#: (I, H, sequences, steps, steps known): whole tiles and a ragged one, less than a vector; one
#: step, blocks and part of one, no step.
SHAPES = (
    (13, 37, 2, 1, True),
    (40, 16, 1, 4, True),
    (5, 37, 2, 19, False),
    (21, 3, 1, 0, True),
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
                Product(4 * hidden, k, n, activation, gates=4),
                family(name),
                Schedule(vectors=v) if name != "scalar" else Schedule(),
            )
            for k, n, name, v in zip((width, hidden), bits, names, vectors, strict=True)
        )
        self.kernel = h_part.family.recurrent(
            "lstm", x_part, h_part, steps if known else None, parallel
        )
        self.activation, self.bits = activation, bits
        self.weights: list[Weight] = []
        self.operands: list[np.ndarray] = []
        for part in (x_part, h_part):
            product = part.product
            indices = rng.integers(0, 2**product.bits, (product.n, product.k)).astype(np.uint8)
            codebook = (0.3 * rng.standard_normal((1, 2**product.bits))).astype(np.float32)
            if per_row:
                codebook = codebook * rng.uniform(0.5, 2, (product.n, 1)).astype(np.float32)
            self.weights.append(Weight.from_tables(indices, codebook, activation))
            packed = part.family.pack(part, self.weights[-1])
            self.operands += packed.values()
        self.bias = size * rng.standard_normal(4 * hidden).astype(np.float32)
        self.operands.append(x_part.family.pack_bias(x_part, self.bias))
        self.inputs = [
            (size * rng.standard_normal(shape)).astype(np.float32)
            for shape in ((batch, steps, width), (batch, hidden), (batch, hidden))
        ]
        self.outputs = [(batch, steps, hidden), (batch, hidden), (batch, hidden)]

    def wanted(self):
        arguments: list[Any] = [*self.inputs, *self.weights, self.bias, self.activation]
        return reference_recurrent.codebook_lstm(*arguments)


def assert_close(got, case):
    wanted = case.wanted()
    for one, exact in zip(got, wanted, strict=True):
        # int8: a last-bit difference of h may round to the next of 127 steps.
        np.testing.assert_allclose(one, exact, atol=5e-3 if case.activation == "int8" else 2e-5)
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
        *((where, name, [(bits, bits)]) for where, name, bits in TABLES),
        *((*pair, [(4, 1)]) for pair in (*INT8, *FP32[:-2], *BASELINE)),
        *(
            pytest.param(*pair, [(2, 3), (8, 5)], marks=pytest.mark.slow)
            for pair in (*INT8, *FP32[:-2], *BASELINE)
        ),
    ],
)
def test_a_layer_computes_its_definition(where, name, bits, emulated):
    """Where there are two pairs of bits the shapes take turns."""
    where = target(where)
    activation = "int8" if name in ("lookup", "table") else "fp32"
    cases = [
        Case(where, (name, name), shape, bits[i % len(bits)], activation)
        for i, shape in enumerate(SHAPES)
    ]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        assert_close(got, case)


@pytest.mark.parametrize(
    ("where", "name"),
    [pytest.param(*one, marks=pytest.mark.slow if one[0] == "arm" else ()) for one in XNOR],
)
def test_a_layer_of_few_bits(where, name, emulated):
    where = target(where)
    cases = [
        Case(where, (name, name), shape, bits, activation)
        for shape in SHAPES[:2]
        for bits, activation in (((1, 2), "int1"), ((2, 1), "int2"))
    ]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        for one, exact in zip(got, case.wanted(), strict=True):
            # A last-bit difference of h may turn a sign: few values, but by far.
            assert np.median(np.abs(one - exact)) < 1e-5


def test_a_codebook_scale_per_row(emulated):
    where = target("native")
    name = "lookup" if where.instruction_set != "scalar" else "scalar"
    case = Case(where, (name, name), SHAPES[1], (3, 2), "int8", per_row=True)
    (got,) = run(where, emulated, [case])
    assert_close(got, case)


@pytest.mark.parametrize("where", ["x86-64-v4", "x86-64-v3", "cortex-a76"])
def test_gates_at_their_ends(where, emulated):
    where = target(where)
    case = Case(where, ("lookup_f32", "lookup_f32"), SHAPES[0], (2, 2), "fp32", size=1e4)
    (got,) = run(where, emulated, [case])
    with np.errstate(over="ignore"):
        wanted = case.wanted()
    for one, exact in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("where", "name"), [("x86-64-v4", "lookup"), ("x86-64-v3", "lookup_f32"), ("arm", "lookup_f32")]
)
def test_what_is_not_a_number_stays_one(where, name, emulated):
    """A NaN in the state of one sequence reaches all of its outputs, and no other sequence's."""
    where = target(where)
    activation = "int8" if name in ("lookup", "table") else "fp32"
    case = Case(where, (name, name), (13, 37, 2, 2, True), (4, 4), activation)
    case.inputs[1][1, 5] = np.nan
    (got,) = run(where, emulated, [case])
    assert all(np.isnan(one[1]).all() for one in got)
    assert all(np.isfinite(one[0]).all() for one in got)


def test_the_two_products_may_differ_in_family(emulated):
    where = target("x86-64-v3")
    case = Case(where, ("dense_f32", "lookup_f32"), SHAPES[2], (5, 3), "fp32")
    (got,) = run(where, emulated, [case])
    assert_close(got, case)


@pytest.mark.parametrize("vectors", [(8, 4), (1, 8), (2, 2)])
def test_tiles_of_any_height(vectors, emulated):
    where = target("x86-64-v3")
    cases = [
        Case(where, ("lookup", "lookup"), shape, (4, 1), "int8", vectors=vectors)
        for shape in ((5, 37, 1, 1, True), (5, 27, 1, 3, True))
    ]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        assert_close(got, case)


def test_a_scalar_and_a_vector_product_cannot_meet():
    where = target("x86-64-v3")
    for names in (("lookup_f32", "scalar"), ("scalar", "lookup_f32")):
        with pytest.raises(Error, match="cannot share a recurrent layer"):
            Case(where, names, SHAPES[1], (4, 4), "fp32")


def test_threads_change_no_bit(emulated):
    where = target("native")
    name = "lookup" if where.instruction_set != "scalar" else "scalar"
    shapes = (SHAPES[0], (64, 256, 1, 1, True), (20, 160, 1, 6, False))
    alone, together = (
        [Case(where, (name, name), shape, (2, 4), "int8", parallel=parallel) for shape in shapes]
        for parallel in (False, True)
    )
    results = run(where, emulated, alone), run(where, emulated, together)
    for one, other in zip(*results, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
