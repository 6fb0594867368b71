"""What stands in a row of `instruction_sets` is what others say."""

from __future__ import annotations

import re

import pytest

from gq_tvm import targets
from gq_tvm.core.compiled import SOURCES
from gq_tvm.schedules import family
from gq_tvm.schedules.choosing.counts import count
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS
from gq_tvm.schedules.family import Choice, Product
from gq_tvm.targets.instruction_sets import FEATURES, ISAS, features_in


def test_every_instruction_set_has_a_row_and_targets_have_its_features():
    assert ISAS.keys() == INSTRUCTION_SETS.keys()
    for target in targets.TARGETS.values():
        names = {one.name for one in FEATURES[target.machine]}
        assert target.features <= names
        if target.instruction_set in ISAS:
            isa = ISAS[target.instruction_set]
            assert isa.machine == target.machine
            assert target.features >= set(isa.features)


def test_the_probe_in_cpp_knows_the_same_bits():
    text = (SOURCES / "run" / "cpu.cc").read_text()
    aarch64, arm = re.findall(r"bits = \{\s*(\{.*?\})\};", text, flags=re.S)
    for machine, written in (("aarch64", aarch64), ("armhf", arm)):
        found = re.findall(r'\{"(\w+)", (?:(\d+) \+ )?(\d+)\}', written)
        bits = {name: int(word or 0) + int(bit) for name, word, bit in found}
        assert bits == {one.name: one.hwcap for one in FEATURES[machine]}


def test_features_by_their_bits():
    assert features_in((1 << 1 | 1 << 20, 1 << 13), "aarch64") == {"neon", "dotprod", "i8mm"}
    assert features_in((1 << 16, 0), "armhf") == {"vfpv4"}


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "cortex-a76", "arm", "arm32"])
def test_look_ups_and_dot_products_are_counted(name):
    target = targets.get(name)
    lookup = family("lookup")
    product = Product(64, 64, 4, "int8", 1)
    choice = Choice(target, product, lookup, lookup.space(target, product)[0])
    found = count(lookup.linear(choice))
    assert found.permutes > 0
    assert found.dots > 0
