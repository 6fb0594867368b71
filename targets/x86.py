"""x86-64 targets, by the levels of the System V psABI (x86-64 psABI 1.0, section 3.1.1)."""

from __future__ import annotations

from gq_tvm.targets.core import KIB, MIB, Cache, Core
from gq_tvm.targets.instruction_sets import ISAS, flags
from gq_tvm.targets.target import Target

# Beyond what the level 4 has.
_BEYOND = flags(("avx512vbmi", "avx512_vnni", "avx512_vpopcntdq"), "x86_64")

_ZEN4 = Core(
    width=6,
    vectors=2,
    loads=2,
    scalars=4,
    caches=(Cache(32 * KIB, 64), Cache(1 * MIB, 32), Cache(32 * MIB, 24)),
    memory=6,
    hertz=3.5e9,
    mca=("-mcpu=znver4",),
    source="Software Optimization Guide for the AMD Zen 4 Microarchitecture (57647), 512 bits wide",
)
_HASWELL = Core(
    width=4,
    vectors=3,
    loads=2,
    scalars=4,
    caches=(Cache(32 * KIB, 64), Cache(256 * KIB, 32), Cache(8 * MIB, 16)),
    memory=5,
    hertz=3.5e9,
    mca=("-mcpu=haswell",),
    source="Intel 64 and IA-32 Architectures Optimization Reference Manual, Haswell",
)

TARGETS = (
    Target(
        name="x86-64-v4",
        machine="x86_64",
        instruction_set="avx512",
        features=frozenset(ISAS["avx512"].features),
        description="AVX-512 with VBMI, VNNI and VPOPCNTDQ (Intel Ice Lake, AMD Zen 4, and newer)",
        mcpu="x86-64-v4",
        mattr=(*(f"+{one}" for one in _BEYOND), "-prefer-256-bit"),
        core=_ZEN4,
    ),
    Target(
        name="x86-64-v3",
        machine="x86_64",
        instruction_set="avx2",
        features=frozenset(ISAS["avx2"].features),
        description="AVX2 and FMA (Intel Haswell, AMD Zen, and newer)",
        mcpu="x86-64-v3",
        core=_HASWELL,
    ),
    Target(
        name="x86-64",
        machine="x86_64",
        instruction_set="scalar",
        features=frozenset(),
        description="any 64-bit x86; plain scalar kernels",
        mcpu="x86-64",
    ),
)
