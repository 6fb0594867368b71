from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gq_tvm.errors import Error
from gq_tvm.plan.plan import Call, Content, Function, Layer, Operand, Plan, Use, Value
from gq_tvm.plan.reader import read
from gq_tvm.plan.size import Named, computed
from gq_tvm.plan.text import sealed, write

FRAMES = Named("frames", 0, 1, least=1, most=64)
HALF = computed("div", computed("add", FRAMES, 1), 2)
LAYER = Layer(
    "a layer", "linear", (8, 16), 4, "int8", "lookup", ("w", "t"), "rows=2 block=16",
    "nearest: 9x9, any rows", Use("int8", None, 0, True, 32, True, 1, "float16"),
)  # fmt: skip
PLAN = Plan(
    machine="x86_64",
    features=("avx2", "fma"),
    functions={
        "main": Function(
            name="main",
            values=(
                Value("input", "float32", (1, FRAMES, 16), 0, "x y"),
                Value("weight", "uint8", (64,), 128, "w"),
                Value("weight", "float32", (16,), 192, "t"),
                Value("constant", "int64", (1,), 0, "", (7).to_bytes(8, "little")),
                Value("temporary", "float32", (HALF, 4), 0),
                Value("view", "float32", (1, HALF, 4), 4),
                Value("output", "float32", (HALF,)),
            ),
            returned=(6,),
            calls=(
                Call(
                    "linear",
                    (Operand(0), Operand(1), Operand(2), Operand(4, True), HALF),
                    "a layer",
                    (LAYER,),
                ),
                Call("join", (Operand(5), Operand(3), Operand(6, True), 5)),
            ),
            slots=1,
            single=True,
        )
    },
    metadata={"tokens": ("", " ", "-", "%", "ä", "a")},
    runtime=("tvm.contrib.sort.argsort",),
    weights=Content(256, 0xDEADBEEF),
    kernels=Content(4096, 7),
)
TEXT = """\
gq-plan 3
machine x86_64
features avx2 fma
weights 256 deadbeef
kernels 4096 00000007
runtime tvm.contrib.sort.argsort
metadata tokens % %20 %2D %25 %C3%A4 a
layer 0 a%20layer linear 8x16 4 int8 lookup rows=2%20block=16 nearest:%209x9,%20any%20rows \
int8,-,0,1,32,1,1,scale_type=float16 w t
function main 3 1
size 0 0 1 1 64 frames
let 1 add r0 1
let 2 div r1 2
value 0 input float32 0 x%20y 1 r0 16
value 1 weight uint8 128 w 64
value 2 weight float32 192 t 16
value 3 constant int64 0700000000000000 - 1
value 4 temporary float32 0 - r2 4
value 5 view float32 4 - 1 r2 4
value 6 output float32 0 - r2
inputs 0
output 6
call linear a%20layer 0 0 1 2 >4 =r2
call join - - 5 3 >6 =5
"""


def test_a_plan_is_a_text_and_back():
    assert write(PLAN) == TEXT
    assert read(sealed(TEXT), "plan.txt") == PLAN


@given(st.text(), st.sampled_from(["name", "schedule", "origin"]))
def test_any_text_is_a_word(text, field):
    function = PLAN.functions["main"]
    layer = replace(LAYER, **{field: text})
    call = replace(function.calls[0], layers=(layer,), layer=text)
    given = replace(function.values[0], name=text)
    changed = replace(
        function, calls=(call, function.calls[1]), values=(given, *function.values[1:])
    )
    plan = replace(PLAN, functions={"main": changed}, metadata={"tokens": (text,)})
    assert read(sealed(write(plan)), "plan.txt") == plan


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("gq-plan 3", "gq-plan 2", "plan.txt is not a plan of this version; compile the model"),
        ("machine x86_64\n", "", "there is no line machine"),
        ("weights 256 deadbeef\n", "", "there is no line weights"),
        ("machine x86_64", "machine x86_64\nmachine x86_64", "says again what an earlier line"),
        ("function main 3 1", "inputs 0\nfunction main 3 1", "line 9 stands outside of a function"),
        ("call linear", "cell linear", "line 22 says cell where a kind of line belongs"),
        ("value 0 input", "value 1 input", "says 1 where 0 belongs"),
        ("value 0 input", "value 0 inlet", "says inlet where one of input, weight"),
        ("float32 0 x", "float33 0 x", "has the dtype float33, which nobody knows"),
        ("view float32 4", "view float32 5", "views a later value"),
        ("weight uint8 128 w 64", "weight uint8 128 w r0", "has a size that is not fixed"),
        ("let 1 add r0 1", "let 1 add r7 1", "line 11 has a word that does not belong there"),
        ("let 1 add r0 1", "let 1 pow r0 1", "says pow where an operation and what it is of"),
        ("size 0 0 1 1 64", "size 0 0 3 1 64", "function main lacks an input"),
        ("a%20layer 0 0 1", "a%20layer 4 0 1", "has a word that does not belong there"),
        (" 5 3 >6", " 5 3 >16", "says 16 where a whole number from 0 to 6 belongs"),
        (",scale_type=float16", ",scale_type=float8", "where what a product is belongs"),
        (",scale_type=float16", ",scales=float16", "where what a product is belongs"),
        ("output 6\n", "", "function main returns nothing"),
        ("8x16 4 int8", "8x16 9 int8", "says 9 where a whole number from 1 to 8 belongs"),
        ("weights 256", f"weights {2**63}", f"says {2**63} where a whole number from 0"),
    ],
)
def test_a_plan_that_says_something_else_is_refused(old, new, reason):
    assert TEXT.count(old) == 1
    with pytest.raises(Error) as refusal:
        read(sealed(TEXT.replace(old, new)), "plan.txt")
    assert reason in str(refusal.value)
    assert "compile the model again" in str(refusal.value)


def test_a_plan_that_was_cut_or_altered_is_noticed():
    data = sealed(TEXT)
    for damaged in (data[:-3], data[:300], data.replace(b" 64 w", b" 65 w"), data + b"\n"):
        if damaged != data:
            with pytest.raises(Error, match=r"plan\.txt is damaged; copy it again, or compile"):
                read(damaged, "plan.txt")


@example(2061)
@given(st.integers(0, 2**32))
def test_no_altered_plan_is_a_traceback(seed):
    chance = random.Random(seed)
    lines = TEXT.splitlines()
    for _ in range(3):
        at = chance.randrange(1, len(lines))
        words = lines[at].split()
        others = lines[chance.randrange(1, len(lines))].split()
        words[chance.randrange(len(words))] = chance.choice([*others, "-1", str(2**64), "%", "r9"])
        lines[at] = " ".join(words)
    with suppress(Error):
        plan = read(sealed("\n".join([*lines, ""])), "plan.txt")
        assert read(sealed(write(plan)), "plan.txt") == plan
