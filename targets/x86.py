"""x86-64 targets, by the levels of the System V psABI (x86-64 psABI 1.0, section 3.1.1)."""

from __future__ import annotations

from gq_tvm.targets.target import Target

_AVX2 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"})
_AVX512 = frozenset(
    {
        *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
        *("avx512vbmi", "avx512_vnni", "avx512_vpopcntdq"),
    }
)

TARGETS = (
    Target(
        name="x86-64-v4",
        machine="x86_64",
        instruction_set="avx512",
        features=_AVX2 | _AVX512,
        description="AVX-512 with VBMI, VNNI and VPOPCNTDQ (Intel Ice Lake, AMD Zen 4, and newer)",
        mcpu="x86-64-v4",
        mattr=("+avx512vbmi", "+avx512vnni", "+avx512vpopcntdq", "-prefer-256-bit"),
    ),
    Target(
        name="x86-64-v3",
        machine="x86_64",
        instruction_set="avx2",
        features=_AVX2,
        description="AVX2 and FMA (Intel Haswell, AMD Zen, and newer)",
        mcpu="x86-64-v3",
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
