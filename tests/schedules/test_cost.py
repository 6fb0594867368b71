from __future__ import annotations

from dataclasses import replace

import pytest

from gq_tvm import targets
from gq_tvm.schedules import Choice, Product, family
from gq_tvm.schedules.choosing.cost import kernel_counts, modelled

PRODUCT = Product(256, 64, 4, "int8", 1)


def counts(product: Product, where: str = "x86-64-v4"):
    target, lookup = targets.get(where), family("lookup")
    return kernel_counts(Choice(target, product, lookup, lookup.space(target, product)[0]))


def test_what_is_counted():
    one = counts(PRODUCT)
    weights = 256 * 64
    assert one.permutes == weights / 64  # a look-up and a dot product for 64 weights
    assert one.dots == weights / 64
    assert weights / 2 < one.bytes < weights  # 4 bits a weight, and the rest
    assert one.registers >= 4
    assert counts(replace(PRODUCT, k=128)).dots == 2 * one.dots


def test_rows_share_look_ups():
    one, four = counts(PRODUCT), counts(replace(PRODUCT, rows=4))
    assert four.dots == 4 * one.dots
    assert four.permutes == one.permutes
    assert counts(replace(PRODUCT, rows=None)) == counts(replace(PRODUCT, rows=16))
    assert counts(replace(PRODUCT, rows=64)) == counts(replace(PRODUCT, rows=16)).times(4)


@pytest.mark.parametrize("where", ["x86-64-v4", "x86-64-v3", "arm", "cortex-a76"])
def test_vectors_beat_scalars(where):
    target = targets.get(where)
    product = Product(256, 64, 4, "int8", 1)
    times = {
        name: modelled(Choice(target, product, one, one.space(target, product)[0]))
        for name, one in ((name, family(name)) for name in ("lookup", "scalar"))
    }
    assert times["lookup"] < times["scalar"] / 4
