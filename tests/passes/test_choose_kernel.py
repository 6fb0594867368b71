from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache
from itertools import product as every
from typing import Any

import pytest
from helpers.relax_modules import assert_same, gru, linear, lstm, module, var
from tvm import relax

from gq_tvm import schedules, targets
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.passes import operators
from gq_tvm.passes.choose_kernel import ChooseKernel
from gq_tvm.passes.parameters import Parameters
from gq_tvm.passes.relax_tools.rewriter import calls_of
from gq_tvm.schedules import Choice, Product, Schedule
from gq_tvm.schedules.choosing import chooser as choosing
from gq_tvm.schedules.choosing.chooser import Chooser
from gq_tvm.schedules.choosing.database import Database, Entry
from gq_tvm.schedules.cpu.engines.lookup import LookupEngine
from gq_tvm.targets import Target

NATIVE = targets.get("native")


@pytest.fixture(autouse=True, scope="module")
def counted_once():
    """Most tests model the same few kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "modelled", cache(choosing.modelled))
        yield


def chosen(mod, target=NATIVE, kernel="auto", database=None) -> list[Choice]:
    """What is chosen for the calls of a module, part by part."""
    parameters = Parameters()
    mod = ChooseKernel(target, parameters, kernel, database)(mod)
    made = [operators.attributes(call).get("choice", "") for call in calls_of(mod)]
    return [one for key in made if key for one in parameters.choices[key].values()]


def names(mod, *arguments) -> list[str]:
    return [one.family.name for one in chosen(mod, *arguments)]


@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_the_first_family_that_can(activation):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation=activation))
    best = schedules.families_for(NATIVE, Product(6, 10, 4, activation, 2))[0]
    assert names(before) == [best.name]


def test_a_kernel_asked_for_is_taken_everywhere():
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(emit(linear(x, 6, 10)), 4, 6, activation="int8"))
    assert names(before, NATIVE, "scalar") == ["scalar", "scalar"]


def test_both_products_of_an_lstm():
    x, h, c = var("x", 1, 2, 5), var("h", 1, 4), var("c", 1, 4)
    both = chosen(module([x, h, c], lambda emit: lstm(x, h, c, 4, (3, 2))))
    products = [Product(16, 5, 3, "int8", 2, gates=4), Product(16, 4, 2, "int8", 1, gates=4)]
    for choice, product in zip(both, products, strict=True):
        best = schedules.families_for(NATIVE, product)[0]
        assert choice == Choice(NATIVE, product, best, best.space(NATIVE, product)[0])
        assert choice.origin == "model"


def recurrent_kernels(gates: int, sizes: tuple[int, int], bits: int, activation: str, **options):
    """The kernels chosen for both products of a layer of one frame."""
    width, hidden = sizes
    x, h, c = var("x", 1, 1, width), var("h", 1, hidden), var("c", 1, hidden)
    about: dict[str, Any] = {"bits": (bits, bits), "activation": activation}
    before = module(
        [x, h, c],
        lambda emit: lstm(x, h, c, hidden, **about) if gates == 4 else gru(x, h, hidden, **about),
    )
    return tuple(one.family.name for one in chosen(before, **options))


def test_both_products_of_a_recurrent_layer_share_a_kernel(monkeypatch, vectors):
    """Whatever is fastest for either alone, vector and scalar kernels do not mix."""
    favourite: dict[int | None, str] = {}  # by rows: 3 of the x-part, 1 of the h-part

    def cost(choice):
        return 1.0 if choice.family.name == favourite[choice.product.rows] else 1.5

    monkeypatch.setattr(choosing, "modelled", cost)
    chooser = Chooser(vectors, Database())
    sizes = ((1, 1), (8, 1), (1, 8), (2, 16), (13, 16))
    for (k, h), gates, bits, activation in every(sizes, (3, 4), range(1, 9), ACTIVATIONS):
        both = [
            Product(gates * h, k, bits, activation, 3, gates),
            Product(gates * h, h, bits, activation, 1, gates),
        ]
        able = [schedules.families_for(vectors, one) for one in both]
        able = [[one for one in some if one.exact(both[0])] for some in able]
        kinds = [one.name for one in able[0]]
        for favourite[3], favourite[1] in every(kinds, repeat=2):
            kernels = [one.family.name for one in chooser.best(both, able, [1, 3])]
            assert len({name == "scalar" for name in kernels}) == 1
            if "scalar" in favourite.values():  # the h-part, computed three times, decides
                assert (kernels[1] == "scalar") == (favourite[1] == "scalar")


@pytest.mark.parametrize(
    ("gates", "size", "bits"), [(4, (8, 1), 2), (3, (2, 2), 4), (4, (1, 1), 8)]
)
def test_tiny_recurrent_layers_by_the_model(gates, size, bits):
    kernels = recurrent_kernels(gates, size, bits, "int8")
    assert len({name == "scalar" for name in kernels}) == 1


def test_the_best_pair_that_can_share_is_taken_by_measured_times(vectors):
    def known(part: str, lookup: float, scalar: float) -> list[Entry]:
        k = {"ih": 10, "hh": 6}[part]
        times = {"lookup": (lookup, Schedule(rows=1)), "scalar": (scalar, Schedule())}
        return [
            replace(entry(name, 24, 1, hot, schedule), k=k, gates=4)
            for name, (hot, schedule) in times.items()
        ]

    for ih, hh, wanted in (((2.0, 1.0), (1.0, 9.0), "lookup"), ((9.0, 1.0), (1.0, 2.0), "scalar")):
        both = Database([*known("ih", *ih), *known("hh", *hh)])
        kernels = recurrent_kernels(4, (10, 6), 4, "int8", target=vectors, database=both)
        assert kernels == (wanted, wanted)


def test_a_kernel_that_cannot_is_refused(monkeypatch, capfd):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, layer="encoder.out"))
    monkeypatch.setattr(type(schedules.family("scalar")), "supports", lambda *_: False)
    with pytest.raises(Error, match=r"kernel scalar cannot do layer encoder\.out \(6 x 10, 4 bits"):
        chosen(before, NATIVE, "scalar")
    gc.collect()
    assert capfd.readouterr().err == ""  # TVM has nothing to add


def test_an_unknown_kernel_is_refused():
    with pytest.raises(Error, match=r"unknown kernel 'lokup'; choose auto or one of .*scalar"):
        ChooseKernel(NATIVE, Parameters(), "lokup")


def test_a_module_without_products_is_left_alone():
    x = var("x", 2, 10)
    before = module([x], lambda emit: x)
    assert_same(ChooseKernel(NATIVE, Parameters())(before), before)


def test_rows_too_long_for_int32_name_the_layer_and_the_way_out():
    x = var("x", 1, 140_000)
    before = module([x], lambda emit: linear(x, 1, 140_000, activation="int8"))
    with pytest.raises(Error, match=r"layer .*overflow; compile with activation fp32"):
        chosen(before)


def entry(name: str, n: int, rows: int, hot: float, schedule: Schedule) -> Entry:
    return Entry(name, n, 10, 4, "int8", rows, 1, str(schedule), hot, None, hot, None, "", "")


@pytest.fixture
def vectors() -> Target:
    return targets.get("x86-64-v4")


@pytest.fixture
def widened(monkeypatch) -> list[Schedule]:
    knobs = [{}, {"vectors": 8}, {"vectors": 8, "rows": 2}]
    space = list(map(schedules.family("lookup").schedule, knobs))
    monkeypatch.setattr(LookupEngine, "space", classmethod(lambda *_: space))
    return space


def test_a_measured_schedule_is_taken(vectors, widened):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="int8"))
    known = Database([entry("lookup", 6, 2, 1.0, widened[2])])
    (at,) = chosen(before, vectors, database=known)
    assert (at.family.name, at.schedule, at.origin) == ("lookup", widened[2], "measured")
    near = Database([entry("lookup", 12, 2, 1.0, widened[1])])
    (at,) = chosen(before, vectors, "lookup", near)
    assert (at.schedule, at.origin) == (widened[1], "nearest: 12x10, 2 rows")
    (at,) = chosen(before, vectors)
    assert (at.family.name, at.schedule, at.origin) == ("lookup", widened[0], "model")
    (at,) = chosen(before, vectors, "lookup")
    assert at.origin == "asked for"


def test_the_family_measured_fastest_is_taken(vectors, widened, monkeypatch):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="int8"))
    entries = [entry("lookup", 6, 2, 2.0, widened[1]), entry("scalar", 6, 2, 1.0, Schedule())]
    (at,) = chosen(before, vectors, database=Database(entries))
    assert (at.family.name, at.origin) == ("scalar", "measured")
    # What the model ranks first is not passed over for want of a measurement.
    (at,) = chosen(before, vectors, database=Database(entries[1:]))
    assert (at.family.name, at.origin) == ("lookup", "model")


def test_modelled_times_say_so_and_are_not_compared_with_measured_ones(vectors, widened):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="int8"))
    one = replace(entry("lookup", 6, 2, 2.0, widened[1]), cpu="modelled cortex-a76")
    (at,) = chosen(before, vectors, database=Database([one]))
    assert (at.family.name, at.origin) == ("lookup", "modelled")
    near = Database([replace(one, n=12)])
    (at,) = chosen(before, vectors, database=near)
    assert at.origin == "nearest modelled: 12x10, 2 rows"
    # A scalar kernel's measured time says nothing beside a modelled one, where the model's own
    # favourite is the other; measured times of both do.
    both = [one, entry("scalar", 6, 2, 1.0, Schedule())]
    (at,) = chosen(before, vectors, database=Database(both))
    assert (at.family.name, at.origin) == ("lookup", "modelled")
    both.append(entry("lookup", 12, 2, 9.0, widened[2]))
    (at,) = chosen(before, vectors, database=Database(both))
    assert (at.family.name, at.origin) == ("scalar", "measured")


def test_families_are_compared_by_the_times_of_one_machine(vectors, widened):
    """Tuned in part, on a slower machine, a model keeps the family that the whole list says."""
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="int8"))
    shipped = [
        replace(entry("lookup", 6, 2, 2.0, widened[1]), cpu="fast"),
        replace(entry("scalar", 6, 2, 5.0, Schedule()), cpu="fast"),
    ]
    mine = [entry("lookup", 6, 2, 6.0, widened[2]), entry("scalar", 6, 2, 4.0, Schedule())]
    (at,) = chosen(before, vectors, database=Database([mine[0], *shipped]))
    assert (at.family.name, at.schedule) == ("lookup", widened[2])
    (at,) = chosen(before, vectors, database=Database([*mine, *shipped]))
    assert at.family.name == "scalar"


def test_approximate_families_and_baselines_are_never_chosen(vectors):
    x = var("x", 2, 10)
    before = module([x], lambda emit: linear(x, 6, 10, activation="fp32"))
    entries = [
        replace(entry(one.name, 6, 2, 1e-3, Schedule()), activation="fp32")
        for one in schedules.FAMILIES
        if one.only_by_name
    ]
    assert entries
    (at,) = chosen(before, vectors, database=Database(entries))
    assert at.family.name == "lookup_f32"


def test_a_shared_weight_has_one_layout(vectors, widened):
    x, y = var("x", 1, 10), var("y", 4, 10)

    def body(emit):
        return emit(linear(x, 6, 10, activation="int8")), linear(y, 6, 10, activation="int8")

    before = module([x, y], lambda emit: relax.Tuple(list(map(emit, body(emit)))))
    known = Database(
        [entry("lookup", 6, 1, 1.0, widened[1]), entry("lookup", 6, 4, 1.0, widened[0])]
    )
    one, four = chosen(before, vectors, database=known)
    assert one.schedule == widened[1]
    assert four.schedule == widened[1]
    assert four.origin == "packed as for 6x10, 1 row"
    alone = Database([entry("lookup", 6, 1, 1.0, widened[2])])
    _, four = chosen(before, vectors, database=alone)
    assert four.schedule["vectors"] == widened[2]["vectors"]
    one, four = chosen(before, vectors)
    assert (one.origin, four.origin) == ("model", "packed as for 6x10, 1 row")
