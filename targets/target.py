"""What a target is: the facts that choose kernels, compile them and decide who may run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm

_TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
        name: What users type, e.g. ``"cortex-a76"``.
        machine: Machine of the ELF file, ``"x86_64"`` or ``"aarch64"`` (as ``uname -m`` prints).
        instruction_set: The vector primitives its kernels are written in
            (``gq_tvm.schedules.instruction_sets``); ``"scalar"`` where there are none.
        features: CPU features that must be present before any code runs: on x86 by the names of
            ``/proc/cpuinfo``, on ARM ``neon`` and ``dotprod``.
        description: One line for ``--target help``.
        mcpu: LLVM's name of the core, which picks LLVM's own scheduling model.
        mattr: LLVM features on top of those ``mcpu`` implies.
        emulator_cpu: The ``qemu-aarch64 -cpu`` model that has these features and no newer ones.
    """

    name: str
    machine: str
    instruction_set: str
    features: frozenset[str]
    description: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    emulator_cpu: str | None = None

    @property
    def tvm(self) -> tvm.target.Target:
        """The target as TVM's code generator takes it (one thread)."""
        config: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": _TRIPLES[self.machine],
            "mcpu": self.mcpu,
            "num-cores": 1,
        }
        if self.mattr:
            config["mattr"] = list(self.mattr)
        return tvm.target.Target(config)
