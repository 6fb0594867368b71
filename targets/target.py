"""What a target is: the facts that choose kernels, compile them and decide who may run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm

from gq_tvm.targets.core import Core

_TRIPLES = {
    "x86_64": "x86_64-unknown-linux-gnu",
    "aarch64": "aarch64-unknown-linux-gnu",
    "armhf": "armv7a-unknown-linux-gnueabihf",
}


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
        name: What users type, e.g. ``"cortex-a76"``.
        machine: Machine of the ELF file: ``"x86_64"``, ``"aarch64"``, or ``"armhf"``, 32 bits.
        instruction_set: The vector primitives its kernels are written in
            (``gq_tvm.schedules.cpu.instruction_sets``); ``"scalar"`` where there are none.
        features: CPU features that must be present before any code runs, out of those of
            `instruction_sets.FEATURES`.
        description: One line for ``--target help``.
        mcpu: LLVM's name of the core, which picks LLVM's own scheduling model.
        mattr: LLVM features on top of those ``mcpu`` implies.
        emulator_cpu: The model of QEMU (``-cpu``) that has these features and no newer ones.
        core: What is known of its speed; None where that differs too much to say.
    """

    name: str
    machine: str
    instruction_set: str
    features: frozenset[str]
    description: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    emulator_cpu: str | None = None
    core: Core | None = None

    @property
    def triple(self) -> str:
        """LLVM's name of the platform."""
        return _TRIPLES[self.machine]

    @property
    def tvm(self) -> tvm.target.Target:
        """The target as TVM's code generator takes it (one thread)."""
        config: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.mcpu,
            "num-cores": 1,
        }
        if self.machine == "armhf":
            config["mfloat-abi"] = "hard"
        if self.mattr:
            config["mattr"] = list(self.mattr)
        return tvm.target.Target(config)
