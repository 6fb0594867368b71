"""32-bit ARM targets with NEON, for hard-float Linux (``armhf``).

Features, caches and widths are those of the cores' Technical Reference Manuals (TRM) and of Arm's
Cortex-A NEON guides. Cortex-A9 has VFPv3, Cortex-A7 and every later core VFPv4, which multiplies
and adds at once. Sizes of second-level caches, clocks and bandwidths are those of a usual board.

QEMU knows no 64-bit core in 32-bit mode: ``max`` stands in for Cortex-A53.
"""

from __future__ import annotations

from gq_tvm.targets.core import KIB, Cache, Core
from gq_tvm.targets.instruction_sets import ISAS
from gq_tvm.targets.target import Target

_NEON = frozenset(ISAS["neon32"].features)
_VFPV4 = _NEON | {"vfpv4"}

# NEON of these cores is 64 bits wide: an instruction on 128 takes two cycles.
_A7 = Core(
    width=2,
    vectors=0.5,
    loads=0.5,
    scalars=1.5,
    caches=(Cache(32 * KIB, 8), Cache(512 * KIB, 4)),
    memory=1.2,
    hertz=0.9e9,
    mca=("-mcpu=cortex-a9",),
    source="Cortex-A7 TRM (DDI 0464) and NEON MPE TRM (DDI 0462); Raspberry Pi 2: 512 KiB L2, "
    "1.1 GB/s; llvm-mca's Cortex-A9",
    in_order=True,
)
_A9 = Core(
    width=2,
    vectors=0.5,
    loads=0.5,
    scalars=2,
    caches=(Cache(32 * KIB, 8), Cache(512 * KIB, 4)),
    memory=1.0,
    hertz=0.8e9,
    mca=("-mcpu=cortex-a9",),
    source="Cortex-A9 TRM (DDI 0388) and NEON MPE TRM (DDI 0409); Zynq-7000: 512 KiB L2, 0.8 GB/s",
)
_A53 = Core(
    width=2,
    vectors=1,
    loads=0.5,
    scalars=2,
    caches=(Cache(32 * KIB, 32), Cache(512 * KIB, 6)),
    memory=1.8,
    hertz=1.4e9,
    mca=("-mcpu=cortex-a57",),
    source="Cortex-A53 TRM (DDI 0500); Raspberry Pi 3: 512 KiB L2, 2.5 GB/s; llvm-mca's Cortex-A57",
    in_order=True,
)


def _target(
    name: str,
    mcpu: str,
    features: frozenset[str],
    emulator_cpu: str,
    core: Core,
    description: str,
) -> Target:
    return Target(
        name=name,
        machine="armhf",
        instruction_set="neon32",
        features=features,
        description=description,
        mcpu=mcpu,
        mattr=("+neon",),
        emulator_cpu=emulator_cpu,
        core=core,
    )


TARGETS = (
    _target(
        "arm32",
        "cortex-a8",
        _NEON,
        "cortex-a8",
        _A7,
        "any 32-bit Cortex-A with NEON (scheduled for A8)",
    ),
    _target(
        "cortex-a7", "cortex-a7", _VFPV4, "cortex-a7", _A7, "32 bits, in-order (Raspberry Pi 2)"
    ),
    _target("cortex-a9", "cortex-a9", _NEON, "cortex-a9", _A9, "32 bits, out of order (Zynq-7000)"),
    _target(
        "cortex-a53-aarch32",
        "cortex-a53",
        _VFPV4,
        "max",
        _A53,
        "Cortex-A53 under a 32-bit system (Raspberry Pi OS of 32 bits)",
    ),
)
