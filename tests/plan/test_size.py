from __future__ import annotations

import pytest

from gq_tvm.errors import Error
from gq_tvm.plan.size import MOST_TERMS, Named, Size, computed, evaluate, named

FRAMES = Named("frames", 0, 1, least=1, most=64)
AFTER = computed("add", computed("div", computed("sub", FRAMES, 3), 2), 1)


@pytest.mark.parametrize(
    ("size", "text", "number"),
    [
        (7, "7", 7),
        (FRAMES, "frames", 9),
        (AFTER, "((frames - 3) // 2) + 1", 4),
        (computed("mod", -1, FRAMES), "-1 % frames", 8),
        (computed("min", AFTER, 5), "min(((frames - 3) // 2) + 1, 5)", 4),
        (computed("max", -4, FRAMES), "max(-4, frames)", 9),
        (computed("select", computed("lt", FRAMES, 9), 0, 1), "select(frames < 9, 0, 1)", 1),
        (computed("select", computed("eq", FRAMES, 9), 0, 1), "select(frames == 9, 0, 1)", 0),
        (computed("mul", 6, 7), "42", 42),
    ],
)
def test_a_size_prints_and_evaluates(size, text, number):
    assert (str(size), evaluate(size, {"frames": 9})) == (text, number)


def test_a_size_knows_the_names_in_it():
    assert list(named(AFTER)) == [FRAMES]
    assert list(named(3)) == []


def test_division_by_zero_is_a_sentence():
    with pytest.raises(Error, match=r"the size 8 // frames divides by zero; give other inputs"):
        evaluate(computed("div", 8, FRAMES), {"frames": 0})


def test_a_size_without_end_is_refused():
    size: Size = FRAMES
    while getattr(size, "terms", 1) * 2 < MOST_TERMS:
        size = computed("add", size, size)  # twice as long each time
    with pytest.raises(Error, match=f"a size is computed from more than {MOST_TERMS} others"):
        computed("add", size, size)
