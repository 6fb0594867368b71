"""LSTM and GRU layers: what their kernels compute is the definition, whatever makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.kernel_harness import BASELINE, FP32, INT8, TABLES, XNOR, Kernels, device_for, target

from gq_tvm.errors import Error
from gq_tvm.ops.checks_recurrent import LAYERS as KINDS
from gq_tvm.ops.reference_recurrent import codebook_recurrent
from gq_tvm.ops.weight import Weight
from gq_tvm.schedules import Choice, Frames, Product, Schedule, family

CELLS = pytest.mark.parametrize("cell", KINDS)
#: (I, H, sequences, steps, steps known): whole tiles and a ragged one, less than a vector; one
#: step, blocks and part of one, no step.
SHAPES = (
    (13, 37, 2, 1, True),
    (40, 16, 1, 4, True),
    (5, 37, 2, 19, False),
    (21, 3, 1, 0, True),
)
#: Whole groups of a GRU's three gates, and what is left of one.
WIDE = ((40, 64, 1, 4, True), (9, 150, 1, 2, True))

slow = pytest.mark.slow
VECTORS = (*INT8, *FP32[:-2], *BASELINE)
#: Cell, target, family, pairs of bits of both weights: where there are two the shapes take turns.
LAYERS = [
    *(("lstm", where, name, [(bits, bits)]) for where, name, bits in TABLES),
    *(("lstm", *pair, [(4, 1)]) for pair in (*INT8, *FP32[:-2])),
    *(pytest.param("lstm", *pair, [(4, 1)], marks=slow) for pair in BASELINE),
    *(pytest.param("lstm", *pair, [(2, 3), (8, 5)], marks=slow) for pair in VECTORS),
    # The loops of all cells are shared: a family of each kind, and the scalar one.
    ("gru", "x86-64-v3", "lookup", [(4, 1)]),
    ("projected_lstm", "x86-64-v3", "lookup", [(4, 1)]),
    ("projected_lstm", "x86-64-v4", "lookup_f32", [(3, 5)]),
    ("rnn_tanh", "x86-64-v3", "lookup", [(2, 8)]),
    ("rnn_relu", "x86-64-v4", "lookup", [(7, 6)]),
    *(
        pytest.param(cell, where, name, [bits], marks=slow)
        for cell in ("projected_lstm", "rnn_tanh", "rnn_relu")
        for where, name, bits in (
            ("x86-64-v4", "lookup", (8, 5)),
            ("x86-64-v3", "lookup_f32", (4, 1)),
            ("x86-64-v4", "table", (1, 1)),
            ("x86-64-v4", "dense_f32", (3, 2)),
            ("x86-64", "scalar", (6, 7)),
            ("arm", "lookup", (4, 1)),
            ("cortex-a76", "lookup", (2, 3)),
            ("cortex-a7", "lookup_f32", (3, 2)),
        )
    ),
    *(
        pytest.param("gru", where, name, [bits], marks=slow)
        for where, name, bits in (
            ("x86-64-v4", "lookup", (8, 5)),
            ("x86-64-v4", "lookup_f32", (4, 1)),
            ("x86-64-v4", "table", (1, 1)),
            ("x86-64-v4", "dense_f32", (3, 2)),
            ("x86-64", "scalar", (6, 7)),
            ("arm", "lookup", (4, 1)),
            ("cortex-a76", "lookup_f32", (3, 2)),
        )
    ),
]


class Case:
    """A layer of random weights, its kernel, and what that should compute."""

    def __init__(
        self, cell, where, names, shape, bits, activation, *, parallel=False, per_row=False,
        size=1, vectors=(4, 4),
    ):  # fmt: skip
        width, hidden, batch, steps, known = shape
        kind = KINDS[cell]
        rows = kind.gates * hidden
        size_of_h = hidden // 2 + 1 if "_hr" in kind.parts else hidden
        rng = np.random.default_rng([*shape[:4], *bits])
        parts = [
            Choice(
                where,
                Product(rows, k, n, activation, gates=kind.gates),
                family(name),
                Schedule(vectors=v) if name != "scalar" else Schedule(),
            )
            for k, n, name, v in zip((width, size_of_h), bits, names, vectors, strict=True)
        ]
        if "_hr" in kind.parts:
            product = Product(size_of_h, hidden, bits[0], activation)
            parts.append(Choice(where, product, family(names[1])))
        self.kernel = parts[1].family.recurrent(
            cell, parts, Frames(steps if known else None), parallel
        )
        self.cell, self.activation = cell, activation
        self.weights: list[Weight] = []
        self.operands: list[np.ndarray] = []
        for part in parts:
            product = part.product
            indices = rng.integers(0, 2**product.bits, (product.n, product.k)).astype(np.uint8)
            codebook = (0.3 * rng.standard_normal((1, 2**product.bits))).astype(np.float32)
            if per_row:
                codebook = codebook * rng.uniform(0.5, 2, (product.n, 1)).astype(np.float32)
            self.weights.append(Weight.from_tables(indices, codebook, activation))
            self.operands += part.family.pack(part, self.weights[-1]).values()
        biased = parts[: len(kind.biases)]
        self.biases = [size * rng.standard_normal(rows).astype(np.float32) for _ in biased]
        self.operands += [
            part.family.pack_bias(part, bias)
            for part, bias in zip(biased, self.biases, strict=True)
        ]
        states = [(batch, size_of_h), (batch, hidden)][: len(kind.states)]
        self.inputs = [
            (size * rng.standard_normal(shape)).astype(np.float32)
            for shape in ((batch, steps, width), *states)
        ]
        self.outputs = [(batch, steps, size_of_h), *states]

    def wanted(self):
        x, *state = self.inputs
        return codebook_recurrent(self.cell, x, state, self.weights, self.biases, self.activation)


def arithmetic(name):
    return "int8" if name in ("lookup", "table") else "fp32"


def native():
    """This machine's target, and its family of int8 look-ups."""
    where = target("native")
    return where, "lookup" if where.instruction_set != "scalar" else "scalar"


def assert_close(got, case):
    wanted = case.wanted()
    for one, exact in zip(got, wanted, strict=True):
        # int8: a last-bit difference of h may round to the next of 127 steps. No gate of an RNN
        # damps what a step before it rounded, and nothing bounds what relu gives.
        step = 5e-3 if case.cell == "lstm" else 1e-2
        last = 1e-4 if case.cell.startswith("rnn") else 2e-5
        bound = _size(exact) * (step if case.activation == "int8" else last)
        np.testing.assert_allclose(one, exact, atol=bound)
    assert np.median(np.abs(got[1] - wanted[1])) < 1e-6 * _size(wanted[1])


def _size(values):
    """What errors are measured by: the largest magnitude, but 1 at least."""
    return max(1.0, float(np.abs(values).max(initial=0)))


def run(where, emulated, cases):
    """What the kernels of `cases` compute, on what can run `where`'s code."""
    functions = {f"f{i}": case.kernel for i, case in enumerate(cases)}
    kernels = Kernels(where, device_for(where, emulated), functions)
    return [
        kernels(name, [*case.inputs, *case.operands], case.outputs)
        for name, case in zip(functions, cases, strict=True)
    ]


@pytest.mark.parametrize(("cell", "where", "name", "bits"), LAYERS)
def test_a_layer_computes_its_definition(cell, where, name, bits, emulated):
    where = target(where)
    shapes = SHAPES if cell == "lstm" else (*SHAPES, *WIDE)
    cases = [
        Case(cell, where, (name, name), shape, bits[i % len(bits)], arithmetic(name))
        for i, shape in enumerate(shapes)
    ]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        assert_close(got, case)


@pytest.mark.parametrize(
    ("cell", "where", "name"),
    [
        *(pytest.param("lstm", *one, marks=slow if one[0] == "arm" else ()) for one in XNOR),
        pytest.param("gru", "x86-64-v4", "xnor", marks=slow),
        pytest.param("gru", "x86-64", "scalar", marks=slow),
    ],
)
def test_a_layer_of_few_bits(cell, where, name, emulated):
    where = target(where)
    cases = [
        Case(cell, where, (name, name), shape, bits, activation)
        for shape in SHAPES[:2]
        for bits, activation in (((1, 2), "int1"), ((2, 1), "int2"))
    ]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        for one, exact in zip(got, case.wanted(), strict=True):
            # A last-bit difference of h may turn a sign: few values, but by far.
            assert np.median(np.abs(one - exact)) < 1e-5


@CELLS
def test_a_codebook_scale_per_row(cell, emulated):
    where, name = native()
    case = Case(cell, where, (name, name), SHAPES[1], (3, 2), "int8", per_row=True)
    (got,) = run(where, emulated, [case])
    assert_close(got, case)


@pytest.mark.parametrize(
    ("cell", "where"),
    [
        ("lstm", "x86-64-v4"),
        ("lstm", "x86-64-v3"),
        ("lstm", "cortex-a76"),
        pytest.param("gru", "x86-64-v3", marks=slow),
    ],
)
def test_gates_at_their_ends(cell, where, emulated):
    where = target(where)
    case = Case(cell, where, ("lookup_f32", "lookup_f32"), SHAPES[0], (2, 2), "fp32", size=1e4)
    (got,) = run(where, emulated, [case])
    with np.errstate(over="ignore"):
        wanted = case.wanted()
    for one, exact in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "where", "name"),
    [
        ("lstm", "x86-64-v4", "lookup"),
        ("lstm", "x86-64-v3", "lookup_f32"),
        ("lstm", "arm", "lookup_f32"),
        ("gru", "x86-64-v3", "lookup"),
    ],
)
def test_what_is_not_a_number_stays_one(cell, where, name, emulated):
    """A NaN in the state of one sequence reaches all of its outputs, and no other sequence's."""
    where = target(where)
    case = Case(cell, where, (name, name), (13, 37, 2, 2, True), (4, 4), arithmetic(name))
    case.inputs[1][1, 5] = np.nan
    (got,) = run(where, emulated, [case])
    assert all(np.isnan(one[1]).all() for one in got)
    assert all(np.isfinite(one[0]).all() for one in got)


def test_the_two_products_may_differ_in_family(emulated):
    where = target("x86-64-v3")
    case = Case("lstm", where, ("dense_f32", "lookup_f32"), SHAPES[2], (5, 3), "fp32")
    (got,) = run(where, emulated, [case])
    assert_close(got, case)


@pytest.mark.parametrize("vectors", [(8, 4), (1, 8), (2, 2)])
def test_tiles_of_any_height(vectors, emulated):
    where = target("x86-64-v3")
    cases = [
        Case("lstm", where, ("lookup", "lookup"), shape, (4, 1), "int8", vectors=vectors)
        for shape in ((5, 37, 1, 1, True), (5, 27, 1, 3, True))
    ]
    for case, got in zip(cases, run(where, emulated, cases), strict=True):
        assert_close(got, case)


@pytest.mark.parametrize("parallel", [pytest.param(False, marks=slow), True])
def test_tiles_of_both_widths_and_scales_per_row_in_a_gru(parallel, emulated):
    where, names = target("x86-64-v3"), ("lookup_f32", "lookup_f32")
    options: Any = {"per_row": True, "vectors": (8, 4), "parallel": parallel}
    case = Case("gru", where, names, WIDE[1], (3, 2), "fp32", **options)
    (got,) = run(where, emulated, [case])
    assert_close(got, case)


@CELLS
@pytest.mark.parametrize("names", [("lookup_f32", "scalar"), ("scalar", "lookup_f32")])
def test_a_scalar_and_a_vector_product_cannot_meet(cell, names):
    with pytest.raises(Error, match="cannot share a recurrent layer"):
        Case(cell, target("x86-64-v3"), names, SHAPES[1], (4, 4), "fp32")


@slow
def test_threads_change_no_bit(emulated):
    where, name = native()
    shapes = (SHAPES[0], (64, 256, 1, 1, True), (20, 160, 1, 6, False))
    alone, together = (
        [
            Case("lstm", where, (name, name), shape, (2, 4), "int8", parallel=parallel)
            for shape in shapes
        ]
        for parallel in (False, True)
    )
    results = run(where, emulated, alone), run(where, emulated, together)
    for one, other in zip(*results, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
