from __future__ import annotations

import pytest

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.ops.checks import ACTIVATIONS
from gq_tvm.schedules import FAMILIES, Choice, Product, Schedule, family

V4 = targets.get("x86-64-v4")


def test_a_choice_has_every_knob_of_its_family():
    choice = Choice(V4, Product(64, 64, 4, "int8"), family("lookup"), Schedule(vectors=8))
    assert str(choice.schedule) == "vectors=8 rows=4 block=16 unroll=1 prefetch=0"
    assert choice.family.layout(choice.schedule) == (8,)
    assert choice == Choice(V4, choice.product, choice.family, choice.schedule, "measured")


def test_a_knob_of_another_family_is_refused():
    with pytest.raises(Error, match="kernel lookup has no warps to set"):
        family("lookup").schedule({"vectors": 8, "warps": 4})


@pytest.mark.parametrize("text", ["", "vectors=4", "prefetch=0 unroll=2 vectors=8"])
def test_schedules_are_text_and_back(text):
    assert str(Schedule.parse(text)) == text
    assert Schedule.parse(text) == Schedule.parse(" ".join(reversed(text.split())))


@pytest.mark.parametrize("text", ["vectors", "vectors=four", "vectors=4=4", "4"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(Error, match="is no schedule"):
        Schedule.parse(text)


@pytest.mark.parametrize("trained", ACTIVATIONS)
def test_families_say_what_they_compute_with(trained):
    """Only exact families compute what was trained, and one of them always does."""
    product = Product(64, 64, 2, trained, 1)
    able = [one for one in FAMILIES if one.supports(V4, product)]
    assert any(one.exact(product) for one in able)
    for one in able:
        assert one.exact(product) or one.only_by_name
        assert one.approximate or one.exact(product) == (one.arithmetic(product) == trained)
