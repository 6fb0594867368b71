"""Whole networks on every instruction set of 64-bit ARM, emulated: right, and alike to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.codebook_models import Lstm, export, frames, linear_program
from helpers.small_networks import whole_conformer

import gq_tvm
from gq_tvm import targets
from gq_tvm.build import build
from gq_tvm.errors import Error
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS

#: The least core of each instruction set; its code runs on the CPU QEMU has for that core.
CORES = {
    "neon": "cortex-a53",
    "neon-dot": "cortex-a76",
    "neon-i8mm": "cortex-a510",
}


def test_every_instruction_set_is_tested():
    known = {one.instruction_set for one in targets.TARGETS.values() if one.machine == "aarch64"}
    assert known == set(CORES)
    for name, core in CORES.items():
        assert targets.get(core).instruction_set == name
        assert targets.get(core).emulator_cpu is not None


def lstm() -> Any:
    """A network, the inputs of its calls, its dynamic sizes."""
    calls = [tuple(torch.randn(*s) for s in ((2, t, 40), (2, 24), (2, 24))) for t in (9, 1)]
    return Lstm(40, 24, "int8"), calls, ({1: frames(1, 90)}, None, None)


def conformer() -> Any:
    """See `lstm`."""
    calls = [(torch.randn(t, 32),) for t in (21, 2)]
    return whole_conformer("int8"), calls, ({0: frames(2, 90)},)


@pytest.mark.emulated
@pytest.mark.export
@pytest.mark.parametrize("network", [lstm, conformer])
def test_a_network_computes_what_pytorch_does(network: Callable, emulated, tmp_path: Path):
    torch.manual_seed(0)
    model, calls, dynamic = network()
    program = export(model, *calls[0], dynamic=dynamic)
    with torch.no_grad():
        wanted = [outputs(model(*inputs)) for inputs in calls]
    found = {}
    for core in CORES.values():
        build(program, core).save(tmp_path / f"{core}.gq")
        net = gq_tvm.load(tmp_path / f"{core}.gq", emulated(targets.get(core).emulator_cpu))
        found[core] = [outputs(net(*inputs)) for inputs in calls]
        for got, exact in zip(found[core], wanted, strict=True):
            for y, z in zip(got, exact, strict=True):
                assert np.linalg.norm(y - z) <= 1e-5 * np.linalg.norm(z)
    # Integer sums are exact, and vector kernels do alike what is float.
    first, *others = (found[core] for name, core in CORES.items() if name in INSTRUCTION_SETS)
    for other in others:
        for got, same in zip(other, first, strict=True):
            for y, z in zip(got, same, strict=True):
                np.testing.assert_array_equal(y, z)


def outputs(values: object) -> list[np.ndarray]:
    return [np.asarray(one) for one in (values if isinstance(values, tuple) else (values,))]


@pytest.mark.emulated
@pytest.mark.parametrize(
    ("core", "cpu", "lacking"),
    [
        ("cortex-a76", "cortex-a53", "dotprod, fp16"),
        ("cortex-a510", "cortex-a76", "i8mm"),
    ],
)
def test_a_feature_the_board_lacks_is_refused_in_words(core, cpu, lacking, emulated, tmp_path):
    build(linear_program(activation="int8"), core).save(tmp_path / "model.gq")
    board = emulated(cpu)
    with pytest.raises(Error, match=rf"model\.gq: this CPU lacks {lacking}; compile the model"):
        gq_tvm.load(tmp_path / "model.gq", board)
    assert board.alive
