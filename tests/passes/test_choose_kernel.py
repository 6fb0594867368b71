from __future__ import annotations

import pytest
from relax_modules import assert_same, calls, linear, lstm, module, var

from gq_tvm import schedules, targets
from gq_tvm.errors import Error
from gq_tvm.passes import operators
from gq_tvm.passes.choose_kernel import ChooseKernel
from gq_tvm.schedules import Product

NATIVE = targets.get("native")


def chosen(mod) -> list[str]:
    return [operators.attributes(call)["kernel"] for call in calls(mod, operators.LINEAR)]


@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_the_first_family_that_can(activation):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation=activation))
    best = schedules.families_for(NATIVE, Product(6, 10, 4, activation, 2))[0]
    assert chosen(ChooseKernel(NATIVE)(before)) == [best.name]


def test_a_kernel_asked_for_is_taken_everywhere():
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(emit(linear(x, 6, 10)), 4, 6, activation="int8"))
    assert chosen(ChooseKernel(NATIVE, "scalar")(before)) == ["scalar", "scalar"]


def test_both_products_of_an_lstm():
    x, h, c = var("x", 1, 2, 5), var("h", 1, 4), var("c", 1, 4)
    got = ChooseKernel(NATIVE)(module([x, h, c], lambda emit: lstm(x, h, c, 4, (3, 2))))
    products = {
        "ih": Product(16, 5, 3, "int8", 2, gates=True),
        "hh": Product(16, 4, 2, "int8", 1, gates=True),
    }
    changes = {}
    for part, product in products.items():
        best = schedules.families_for(NATIVE, product)[0]
        changes[f"kernel_{part}"] = best.name
        changes[f"schedule_{part}"] = str(best.space(NATIVE, product)[0])
    assert_same(got, module([x, h, c], lambda emit: lstm(x, h, c, 4, (3, 2), **changes)))


def test_a_kernel_that_cannot_is_refused(monkeypatch):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, layer="encoder.out"))
    monkeypatch.setattr(type(schedules.family("scalar")), "supports", lambda *_: False)
    with pytest.raises(Error, match=r"kernel scalar cannot do layer encoder\.out \(6 x 10, 4 bits"):
        ChooseKernel(NATIVE, "scalar")(before)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(Error, match=r"unknown kernel 'lokup'; choose auto or one of .*scalar"):
        ChooseKernel(NATIVE, "lokup")


def test_a_module_without_products_is_left_alone():
    x = var("x", 2, 10)
    before = module([x], lambda emit: x)
    assert_same(ChooseKernel(NATIVE)(before), before)


def test_rows_too_long_for_int32_name_the_layer_and_the_way_out():
    x = var("x", 1, 140_000)
    before = module([x], lambda emit: linear(x, 1, 140_000, activation="int8"))
    with pytest.raises(Error, match=r"layer .*overflow; compile with activation fp32"):
        ChooseKernel(NATIVE)(before)
