"""64-bit ARM targets.

Features, caches and widths are those of each core's Technical Reference Manual (TRM) and Software
Optimization Guide (SOG): SDOT and half precision are optional in Armv8.2-A and present in
Cortex-A55, A75 and all later cores, SMMLA in Armv9 cores (Arm ARM DDI 0487: FEAT_DotProd,
FEAT_FP16, FEAT_I8MM). SVE is left unused. Sizes of the caches beyond the first level are a maker's
choice: those of a usual board are taken, as are its clock and the bandwidth of its memory.

QEMU 7.2 has no model of most dot-product cores: Cortex-A76 stands in for them, ``max`` for those
with SMMLA.
"""

from __future__ import annotations

from gq_tvm.targets.core import KIB, MIB, Cache, Core
from gq_tvm.targets.instruction_sets import ISAS
from gq_tvm.targets.target import Target


def _caches(l1: int, *outer: tuple[int, float]) -> tuple[Cache, ...]:
    """The levels: the first feeds every load a core can issue, whatever its width."""
    return Cache(l1, 32), *(Cache(size, bandwidth) for size, bandwidth in outer)


# One in-order pair of 64-bit NEON pipes works as one of 128 bits; a 128-bit load takes two cycles.
_A53 = Core(
    width=2,
    vectors=1,
    loads=0.5,
    scalars=2,
    caches=_caches(32 * KIB, (512 * KIB, 6)),
    memory=1.8,
    hertz=1.4e9,
    mca=("-mcpu=cortex-a53",),
    source="Cortex-A53 TRM (DDI 0500); Raspberry Pi 3: 512 KiB L2, 2.5 GB/s",
    in_order=True,
)
_A55 = Core(
    width=2,
    vectors=1,
    loads=0.5,
    scalars=2,
    caches=_caches(32 * KIB, (128 * KIB, 8), (512 * KIB, 6)),
    memory=2.2,
    hertz=1.8e9,
    mca=("-mcpu=cortex-a55",),
    source="Cortex-A55 TRM (100442) and SOG; RK3568: 512 KiB L3, 4 GB/s",
    in_order=True,
)
_A57 = Core(
    width=3,
    vectors=2,
    loads=1,
    scalars=2,
    caches=_caches(32 * KIB, (2 * MIB, 10)),
    memory=3.5,
    hertz=1.7e9,
    mca=("-mcpu=cortex-a57",),
    source="Cortex-A57 TRM (DDI 0488) and SOG; Jetson TX1: 2 MiB L2, 6 GB/s",
)
_A72 = Core(
    width=3,
    vectors=2,
    loads=1,
    scalars=2,
    caches=_caches(32 * KIB, (1 * MIB, 10)),
    memory=3.0,
    hertz=1.5e9,
    mca=("-mcpu=cortex-a72",),
    source="Cortex-A72 TRM (100095) and SOG; Raspberry Pi 4: 1 MiB L2, 4.5 GB/s; llvm-mca's A57",
)
_A73 = Core(
    width=2,
    vectors=2,
    loads=2,
    scalars=2,
    caches=_caches(64 * KIB, (2 * MIB, 12)),
    memory=3.0,
    hertz=2.2e9,
    mca=("-mcpu=cortex-a73", "-dispatch=2"),
    source="Cortex-A73 TRM (100048); 2 MiB L2, 6.5 GB/s; llvm-mca's A57, two wide",
)
_A75 = Core(
    width=3,
    vectors=2,
    loads=2,
    scalars=2,
    caches=_caches(64 * KIB, (256 * KIB, 14), (1 * MIB, 8)),
    memory=4.0,
    hertz=2.0e9,
    mca=("-mcpu=neoverse-n1", "-dispatch=3"),
    source="Cortex-A75 TRM (100403); 256 KiB L2, 1 MiB L3, 8 GB/s; llvm-mca's Neoverse N1, three "
    "wide",
)
_A76 = Core(
    width=4,
    vectors=2,
    loads=2,
    scalars=3,
    caches=_caches(64 * KIB, (512 * KIB, 16), (2 * MIB, 10)),
    memory=4.2,
    hertz=2.4e9,
    mca=("-mcpu=neoverse-n1", "-dispatch=4"),
    source="Cortex-A76 TRM (100798) and SOG; Raspberry Pi 5: 512 KiB L2, "
    "2 MiB L3, 10 GB/s; llvm-mca's Neoverse N1, four wide",
)
_A78 = Core(
    width=6,
    vectors=2,
    loads=3,
    scalars=4,
    caches=_caches(64 * KIB, (256 * KIB, 20), (2 * MIB, 12)),
    memory=9.0,
    hertz=2.2e9,
    mca=("-mcpu=neoverse-n1", "-dispatch=6"),
    source="Cortex-A78 TRM (101430) and SOG; Jetson Orin: 256 KiB L2, "
    "2 MiB L3, 20 GB/s; llvm-mca's Neoverse N1, six wide",
)
_X1 = Core(
    width=8,
    vectors=4,
    loads=3,
    scalars=4,
    caches=_caches(64 * KIB, (1 * MIB, 24), (8 * MIB, 12)),
    memory=8.0,
    hertz=2.8e9,
    mca=("-mcpu=neoverse-v1",),
    source="Cortex-X1 TRM (101433) and SOG; 1 MiB L2, 8 MiB L3, 22 GB/s; llvm-mca's Neoverse V1",
)
_A510 = Core(
    width=3,
    vectors=1,
    loads=1,
    scalars=3,
    caches=_caches(32 * KIB, (256 * KIB, 10), (4 * MIB, 8)),
    memory=3.5,
    hertz=1.8e9,
    mca=("-mcpu=cortex-a510",),
    source="Cortex-A510 TRM (101604) and SOG; 256 KiB L2, 4 MiB L3, 6 GB/s",
    in_order=True,
)
_A710 = Core(
    width=5,
    vectors=2,
    loads=3,
    scalars=4,
    caches=_caches(64 * KIB, (512 * KIB, 20), (8 * MIB, 12)),
    memory=7.0,
    hertz=2.5e9,
    mca=("-mcpu=neoverse-n2",),
    source="Cortex-A710 TRM (101800) and SOG; 512 KiB L2, 8 MiB L3, "
    "17 GB/s; llvm-mca's Neoverse N2",
)
_N1 = Core(
    width=4,
    vectors=2,
    loads=2,
    scalars=3,
    caches=_caches(64 * KIB, (1 * MIB, 16), (32 * MIB, 8)),
    memory=6.0,
    hertz=2.5e9,
    mca=("-mcpu=neoverse-n1", "-dispatch=4"),
    source="Neoverse N1 TRM (100616) and SOG; AWS Graviton2: 1 MiB L2, 32 MiB L3, 15 GB/s",
)


def _plain(name: str, emulator_cpu: str, core: Core, description: str, mcpu: str = "") -> Target:
    return Target(
        name=name,
        machine="aarch64",
        instruction_set="neon",
        features=frozenset(ISAS["neon"].features),
        description=description,
        mcpu=mcpu or name,
        emulator_cpu=emulator_cpu,
        core=core,
    )


def _dot(name: str, core: Core, description: str, emulator_cpu: str = "cortex-a76") -> Target:
    return Target(
        name=name,
        machine="aarch64",
        instruction_set="neon-dot",
        features=frozenset(ISAS["neon-dot"].features),
        description=description,
        mcpu=name,
        emulator_cpu=emulator_cpu,
        core=core,
    )


def _matrix(name: str, core: Core, description: str) -> Target:
    return Target(
        name=name,
        machine="aarch64",
        instruction_set="neon-i8mm",
        features=frozenset(ISAS["neon-i8mm"].features),
        description=description,
        mcpu=name,
        mattr=("-sve",),
        emulator_cpu="max",
        core=core,
    )


TARGETS = (
    _plain(
        "arm",
        "cortex-a53",
        _A72,
        "any 64-bit Cortex-A with NEON (scheduled for A72)",
        mcpu="cortex-a72",
    ),
    _plain("cortex-a53", "cortex-a53", _A53, "in-order, Armv8.0 (Raspberry Pi 3, Zero 2 W)"),
    _plain("cortex-a57", "cortex-a57", _A57, "out of order, Armv8.0 (Jetson TX1)"),
    _plain("cortex-a72", "cortex-a72", _A72, "out of order, Armv8.0 (Raspberry Pi 4)"),
    _plain("cortex-a73", "cortex-a72", _A73, "out of order, Armv8.0"),
    _dot("cortex-a55", _A55, "in-order, Armv8.2 with SDOT"),
    _dot("cortex-a75", _A75, "out of order, Armv8.2 with SDOT"),
    _dot("cortex-a76", _A76, "out of order, Armv8.2 with SDOT (Raspberry Pi 5)"),
    _dot("cortex-a78", _A78, "out of order, Armv8.2 with SDOT (Jetson Orin)"),
    _dot("cortex-x1", _X1, "out of order, Armv8.2 with SDOT, four vector pipes"),
    _dot(
        "neoverse-n1", _N1, "server core close to A76 (cloud stand-in for a board)", "neoverse-n1"
    ),
    _matrix("cortex-a510", _A510, "in-order, Armv9 with SMMLA"),
    _matrix("cortex-a710", _A710, "out of order, Armv9 with SMMLA"),
)
