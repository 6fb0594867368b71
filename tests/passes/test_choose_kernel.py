from __future__ import annotations

from dataclasses import replace

import pytest
from relax_modules import assert_same, calls, linear, lstm, module, var
from tvm import relax

from gq_tvm import schedules, targets
from gq_tvm.errors import Error
from gq_tvm.passes import operators
from gq_tvm.passes.choose_kernel import ChooseKernel
from gq_tvm.schedules import Product, Schedule
from gq_tvm.schedules.database import Database, Entry
from gq_tvm.schedules.lookup import LookupEngine
from gq_tvm.targets import Target

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
        "ih": Product(16, 5, 3, "int8", 2, gates=4),
        "hh": Product(16, 4, 2, "int8", 1, gates=4),
    }
    changes = {"origin_ih": "model", "origin_hh": "model"}
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


def entry(name: str, n: int, rows: int, hot: float, schedule: Schedule) -> Entry:
    return Entry(name, n, 10, 4, "int8", rows, 1, str(schedule), hot, None, hot, None, "", "")


@pytest.fixture
def vectors() -> Target:
    return targets.get("x86-64-v4")


@pytest.fixture
def widened(monkeypatch) -> list[Schedule]:
    space = [Schedule(), Schedule(vectors=8), Schedule(vectors=8, rows=2)]
    monkeypatch.setattr(LookupEngine, "space", classmethod(lambda *_: space))
    return space


def attributes_of(mod) -> list[dict]:
    return [operators.attributes(call) for call in calls(mod, operators.LINEAR)]


def test_a_measured_schedule_is_taken(vectors, widened):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="int8"))
    known = Database([entry("lookup", 6, 2, 1.0, widened[2])])
    (at,) = attributes_of(ChooseKernel(vectors, database=known)(before))
    assert (at["kernel"], at["schedule"], at["origin"]) == ("lookup", str(widened[2]), "measured")
    near = Database([entry("lookup", 12, 2, 1.0, widened[1])])
    (at,) = attributes_of(ChooseKernel(vectors, "lookup", near)(before))
    assert (at["schedule"], at["origin"]) == (str(widened[1]), "nearest: 12x10, 2 rows")
    (at,) = attributes_of(ChooseKernel(vectors)(before))
    assert (at["kernel"], at["schedule"], at["origin"]) == ("lookup", str(widened[0]), "model")
    (at,) = attributes_of(ChooseKernel(vectors, "lookup")(before))
    assert at["origin"] == "asked for"


def test_the_family_measured_fastest_is_taken(vectors, widened, monkeypatch):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="int8"))
    entries = [entry("lookup", 6, 2, 2.0, widened[1]), entry("scalar", 6, 2, 1.0, Schedule())]
    (at,) = attributes_of(ChooseKernel(vectors, database=Database(entries))(before))
    assert (at["kernel"], at["origin"]) == ("scalar", "measured")
    # What the model ranks first is not passed over for want of a measurement.
    (at,) = attributes_of(ChooseKernel(vectors, database=Database(entries[1:]))(before))
    assert (at["kernel"], at["origin"]) == ("lookup", "model")


def test_modelled_times_say_so_and_are_not_compared_with_measured_ones(vectors, widened):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="int8"))
    one = replace(entry("lookup", 6, 2, 2.0, widened[1]), cpu="modelled cortex-a76")
    (at,) = attributes_of(ChooseKernel(vectors, database=Database([one]))(before))
    assert (at["kernel"], at["origin"]) == ("lookup", "modelled")
    near = Database([replace(one, n=12)])
    (at,) = attributes_of(ChooseKernel(vectors, database=near)(before))
    assert at["origin"] == "nearest modelled: 12x10, 2 rows"
    both = Database([one, entry("scalar", 6, 2, 9.0, Schedule())])
    (at,) = attributes_of(ChooseKernel(vectors, database=both)(before))
    assert (at["kernel"], at["origin"]) == ("scalar", "measured")


def test_approximate_families_and_baselines_are_never_chosen(vectors):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="fp32"))
    entries = [
        replace(entry(one.name, 6, 2, 1e-3, Schedule()), activation="fp32")
        for one in schedules.FAMILIES
        if one.baseline or one.approximate
    ]
    assert entries
    (at,) = attributes_of(ChooseKernel(vectors, database=Database(entries))(before))
    assert at["kernel"] == "lookup_f32"


def test_a_shared_weight_has_one_layout(vectors, widened):
    x, y = var("x", 1, 10), var("y", 4, 10)

    def body(emit):
        return emit(linear(x, 6, 10, activation="int8")), linear(y, 6, 10, activation="int8")

    before = module([x, y], lambda emit: relax.Tuple(list(map(emit, body(emit)))))
    known = Database(
        [entry("lookup", 6, 1, 1.0, widened[1]), entry("lookup", 6, 4, 1.0, widened[0])]
    )
    one, four = attributes_of(ChooseKernel(vectors, database=known)(before))
    assert one["schedule"] == str(widened[1])
    assert four["schedule"] == str(widened[1])
    assert four["origin"] == "packed as for 6x10, 1 row"
    alone = Database([entry("lookup", 6, 1, 1.0, widened[2])])
    _, four = attributes_of(ChooseKernel(vectors, database=alone)(before))
    assert Schedule.parse(four["schedule"]).layout == widened[2].layout
    one, four = attributes_of(ChooseKernel(vectors)(before))
    assert (one["origin"], four["origin"]) == ("model", "packed as for 6x10, 1 row")
