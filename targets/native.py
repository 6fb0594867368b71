"""The CPU this process runs on: its machine, its features, the target that fits it best."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from functools import cache

from gq_tvm.errors import Error
from gq_tvm.targets.target import Target

# Linux, arch/arm64/include/uapi/asm/hwcap.h: bit of AT_HWCAP -> our name.
_AT_HWCAP = 16
_ARM_HWCAP = {1: "neon", 10: "fp16", 20: "dotprod"}
_AT_HWCAP2 = 26
_ARM_HWCAP2 = {13: "i8mm"}


@cache
def features() -> frozenset[str]:
    """Return the features of this CPU, under the names ``Target.features`` uses."""
    if platform.machine() == "aarch64":
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype = ctypes.c_ulong
        getauxval.argtypes = [ctypes.c_ulong]
        found = set()
        for kind, names in ((_AT_HWCAP, _ARM_HWCAP), (_AT_HWCAP2, _ARM_HWCAP2)):
            bits = getauxval(kind)
            found |= {name for bit, name in names.items() if bits >> bit & 1}
        return frozenset(found)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), ":")
    except OSError:
        return frozenset()
    return frozenset(flags.partition(":")[2].split())


def best(targets: Iterable[Target]) -> Target:
    """Return the first of ``targets`` (listed best first) that this CPU can run.

    Raises:
        Error: this machine is of an architecture that has no target.
    """
    machine = platform.machine()
    for target in targets:
        if target.machine == machine and target.features <= features():
            return target
    raise Error(f"there is no target for this machine ({machine}); name one with --target")
