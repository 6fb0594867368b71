from __future__ import annotations

from pathlib import Path

from helpers.codebook_models import everything
from helpers.plans import plan_of

from gq_tvm.plan.text import write

GOLDEN = Path(__file__).with_name("everything.txt")


def test_the_plan_of_everything_is_what_it_was():
    """Where a change is meant, the text that is printed takes the file's place."""
    _, program = everything()
    text = write(plan_of(program, kernel="scalar"))
    print(text)
    assert text == GOLDEN.read_text()
