from __future__ import annotations

import numpy as np
import pytest

from gq_tvm import targets
from gq_tvm.errors import Error
from gq_tvm.runtime.devices import probe
from gq_tvm.targets import native

X86 = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: A Fast One
flags\t\t: fpu avx2

processor\t: 1
model name\t: Another
"""
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


def answer(words: list[int], text: str) -> np.ndarray:
    filled = np.zeros(probe.SIZE, np.uint8)
    data = np.array(words, np.uint64).tobytes() + text.encode()
    filled[: len(data)] = np.frombuffer(data, np.uint8)
    return filled


def test_names():
    assert native.cpu_name(X86.splitlines()) == "A Fast One (family 25, model 17)"
    assert native.cpu_name(ARM.splitlines()) == "ARM implementer 0x41 part 0xd0b"
    assert native.cpu_name([]) == "unknown CPU"
    assert native.name()


def test_a_board_and_an_emulated_one():
    board = probe.read("aarch64", answer([1 << 1 | 1 << 20, 0], ARM))
    assert board.features == {"neon", "dotprod"}
    assert not board.emulated
    assert probe.read("aarch64", answer([1 << 1, 0], X86)).emulated
    pc = probe.read("x86_64", answer([0, 0], X86))
    assert (pc.features, pc.emulated) == ({"fpu", "avx2"}, False)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rpi5", "unknown target 'rpi5'; did you mean cortex-a76"),
        ("Raspberry_Pi_4", "did you mean cortex-a72"),
        ("jetson-orin", "did you mean cortex-a78"),
        ("cortex_a53", "did you mean cortex-a53 or"),
        ("cortex-a67", "did you mean cortex-a"),
        ("x86", "did you mean x86-64"),
        ("cuda", "cuda is no target: gq-tvm makes code for CPUs"),
    ],
)
def test_an_unknown_target_has_a_hint(name, says):
    with pytest.raises(Error, match=says):
        targets.get(name)
