from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import BASELINE, FP32, INT8, XNOR, Kernels, device_for, target

from gq_tvm.ops import reference
from gq_tvm.schedules import Product, Schedule, family

#: (H, sequences, steps): whole tiles, a ragged tile, less than a vector.
SHAPES = ((16, 1, 3), (37, 2, 4), (3, 1, 5))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def expected(gates_x, h, c, indices, codebook, bits, activation):
    h, c, ys = h.astype(np.float64), c.astype(np.float64), []
    for t in range(gates_x.shape[1]):
        product = reference.codebook_linear(
            h.astype(np.float32), indices, codebook, None, bits, activation
        )
        i, f, g, o = np.split(gates_x[:, t].astype(np.float64) + product, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.stack(ys, 1), h, c


@pytest.mark.parametrize(
    "bits", [4, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (2, 8))]
)
@pytest.mark.parametrize(("where", "name"), [*INT8, *FP32[:-2], *BASELINE])
def test_lstm_recurrence(where, name, bits, emulated):
    check_recurrence(where, name, bits, "int8" if name == "lookup" else "fp32", emulated)


@pytest.mark.parametrize(("bits", "activation"), [(1, "int1"), (2, "int2")])
@pytest.mark.parametrize(("where", "name"), XNOR)
def test_lstm_recurrence_of_few_bits(where, name, bits, activation, emulated):
    check_recurrence(where, name, bits, activation, emulated)


def check_recurrence(where, name, bits, activation, emulated):
    where = target(where)
    products = [Product(4 * h, h, bits, activation, b, recurrent=True) for h, b, _ in SHAPES]
    chosen = family(name)
    kernels = Kernels(
        where,
        device_for(where, emulated),
        {
            f"f{i}": chosen.recurrence(where, product, Schedule())
            for i, product in enumerate(products)
        },
    )
    for i, (hidden, batch, steps) in enumerate(SHAPES):
        rng = np.random.default_rng([hidden, bits])
        indices = rng.integers(0, 2**bits, (4 * hidden, hidden)).astype(np.uint8)
        codebook = (0.3 * rng.standard_normal((1, 2**bits))).astype(np.float32)
        gates_x = rng.standard_normal((batch, steps, 4 * hidden)).astype(np.float32)
        h0, c0 = rng.standard_normal((2, batch, hidden)).astype(np.float32)
        operands = chosen.pack(where, products[i], Schedule(), indices, codebook)
        y, h, c = kernels(
            f"f{i}",
            [gates_x, h0, c0, *operands.values()],
            [(batch, steps, hidden), (batch, hidden), (batch, hidden)],
        )
        want = expected(gates_x, h0, c0, indices, codebook, bits, activation)
        for got, exact in zip((y, h, c), want, strict=True):
            # int8: a last-bit difference of h may round to the next of 127 steps. Of few bits, the
            # steps are too long for that to pass, and too few for it to happen here.
            np.testing.assert_allclose(got, exact, atol=2e-3 if activation == "int8" else 1e-5)
        assert np.median(np.abs(y - want[0])) < 1e-6
