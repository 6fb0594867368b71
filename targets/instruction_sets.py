"""What an instruction set and its features are called by others: a row each, which all read.

Ours are the names of Linux: on x86 those of the flags in ``/proc/cpuinfo``, on ARM near to those of
``asm/hwcap.h``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """A feature of CPUs.

    Attributes:
        name: Ours.
        llvm: LLVM's, as ``-mattr`` takes it; "" is ours.
        hwcap: Its bit in AT_HWCAP, from 64 on in AT_HWCAP2 (getauxval(3); Linux, ``asm/hwcap.h``);
            None on x86.
    """

    name: str
    llvm: str = ""
    hwcap: int | None = None

    @property
    def flag(self) -> str:
        """LLVM's name."""
        return self.llvm or self.name


#: The features targets ask for, by machine.
FEATURES: dict[str, tuple[Feature, ...]] = {
    "x86_64": (
        *map(Feature, ("avx2", "fma", "bmi2", "f16c", "movbe")),
        Feature("bmi1", "bmi"),
        Feature("abm", "lzcnt"),
        *map(Feature, ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi")),
        Feature("avx512_vnni", "avx512vnni"),
        Feature("avx512_vpopcntdq", "avx512vpopcntdq"),
    ),
    "aarch64": (
        Feature("neon", hwcap=1),
        Feature("fp16", "fullfp16", hwcap=10),
        Feature("dotprod", hwcap=20),
        Feature("i8mm", hwcap=64 + 13),
    ),
    "armhf": (
        Feature("neon", hwcap=12),
        Feature("vfpv4", "vfp4", hwcap=16),
    ),
}


@dataclass(frozen=True)
class Isa:
    """An instruction set that kernels are written in.

    Attributes:
        name: As ``Target.instruction_set`` and `gq_tvm.schedules.cpu.instruction_sets` have it.
        machine: That it is of, as ``Target.machine`` has it.
        features: That a CPU needs to have it.
        registers: Its vector registers.
        permutes: What is in the names of LLVM's intrinsics that look up and blend.
        dots: The same of those of integer dot products.
        emulated: Whether QEMU runs it.
    """

    name: str
    machine: str
    features: tuple[str, ...]
    registers: int
    permutes: tuple[str, ...] = ()
    dots: tuple[str, ...] = ()
    emulated: bool = True


_AVX2 = ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm")
_AVX512 = (
    *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    *("avx512vbmi", "avx512_vnni", "avx512_vpopcntdq"),
)
_LOOK_UPS, _PRODUCTS = (".tbl", ".tbx"), (".sdot", "smmla", "smull", "saddlp")  # of NEON

_ROWS = (
    Isa("avx2", "x86_64", _AVX2, 16, ("pshuf", "permps", "blendv"), ("pmadd", "psign")),
    Isa(
        "avx512", "x86_64", (*_AVX2, *_AVX512), 32,
        ("permvar", "permi2var", "pternlog"), ("pdpbusd",), emulated=False,
    ),
    Isa("neon", "aarch64", ("neon",), 32, _LOOK_UPS, _PRODUCTS),
    Isa("neon-dot", "aarch64", ("neon", "fp16", "dotprod"), 32, _LOOK_UPS, _PRODUCTS),
    Isa("neon-i8mm", "aarch64", ("neon", "fp16", "dotprod", "i8mm"), 32, _LOOK_UPS, _PRODUCTS),
    Isa("neon32", "armhf", ("neon",), 16, (".vtbl", ".vtbx"), (".vmulls", ".vpadals")),
)  # fmt: skip

ISAS: dict[str, Isa] = {one.name: one for one in _ROWS}


def features_in(words: tuple[int, ...], machine: str) -> frozenset[str]:
    """The features whose bits are set in AT_HWCAP and AT_HWCAP2."""
    bits = sum(word << 64 * number for number, word in enumerate(words))
    known = FEATURES[machine]
    return frozenset(one.name for one in known if one.hwcap is not None and bits >> one.hwcap & 1)


def flags(names: frozenset[str] | tuple[str, ...], machine: str) -> tuple[str, ...]:
    """LLVM's names of features, in the order of `FEATURES`."""
    return tuple(one.flag for one in FEATURES[machine] if one.name in names)
