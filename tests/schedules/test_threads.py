"""Kernels that deal their tiles out to threads compute what they compute on one, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.kernel_harness import VECTOR_TARGETS, device_for, run_linear, target

from gq_tvm.schedules import FAMILIES, Choice, Product
from gq_tvm.schedules.choosing.threads import worth_threads

#: (N, K, rows, symbolic): several tiles and a ragged one; one row, and two blocks of rows.
LINEAR = ((300, 77, 1, False), (300, 40, 21, True))

slow = pytest.mark.slow
CASES = pytest.mark.parametrize(
    ("where", "activation", "bits"),
    [
        ("x86-64-v4", "int8", 3),
        ("cortex-a76", "int8", 3),
        *(
            pytest.param(where, activation, bits, marks=slow)
            for where in VECTOR_TARGETS
            if where != "cortex-a7"  # kernels alone, without a runtime's threads
            for activation, bits in (("int8", 1), ("int8", 4), ("int8", 8), ("fp32", 3))
        ),
    ],
)


def families(where, product):
    """The vector families that take a product as it was trained."""
    vector = [one for one in FAMILIES if one.loops == "vectors"]
    return [one for one in vector if one.supports(where, product) and one.exact(product)]


@CASES
def test_linear(where, activation, bits, emulated):
    where = target(where)
    device = device_for(where, emulated)
    device.use_threads(2)
    rng = np.random.default_rng(bits)
    cases = [
        (
            Product(n, k, bits, activation, None if symbolic else rows),
            rng.standard_normal((rows, k)).astype(np.float32),
            rng.integers(0, 2**bits, (n, k)).astype(np.uint8),
            rng.standard_normal((1, 2**bits)).astype(np.float32),
            rng.standard_normal(n).astype(np.float32),
        )
        for n, k, rows, symbolic in LINEAR
    ]
    for chosen in families(where, cases[0][0]):
        serial = run_linear(chosen, where, device, cases)
        parallel = run_linear(chosen, where, device, cases, parallel=True)
        for got, wanted in zip(parallel, serial, strict=True):
            np.testing.assert_array_equal(got, wanted, chosen.name)


def test_only_large_products_are_worth_threads():
    def worth(product: Product, where: str = "x86-64-v4") -> bool:
        chosen = next(one for one in FAMILIES if one.supports(target(where), product))
        return worth_threads(Choice(target(where), product, chosen))

    assert worth(Product(4096, 1024, 4, "int8", 1))
    assert not worth(Product(512, 512, 4, "int8", 1))
    assert worth(Product(512, 512, 4, "int8", 16))
    assert worth(Product(1024, 512, 4, "fp32", 1))
    # One row at a time, whatever the number of sequences.
    assert not worth(Product(1024, 256, 4, "int8", 64, gates=4))
    # A smaller core needs longer for the same.
    assert worth(Product(1024, 512, 4, "int8", 1), "arm")
    assert not worth(Product(4096, 4096, 4, "int8", 16), "x86-64")
