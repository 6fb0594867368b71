"""The CPU this process runs on: its machine, its features, the target that fits it best."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from functools import cache

from gq_tvm.errors import Error
from gq_tvm.targets.instruction_sets import features_in
from gq_tvm.targets.target import Target

#: AT_HWCAP and AT_HWCAP2 of getauxval(3), which `arm_features` reads.
HWCAPS = (16, 26)


def arm_features(words: Iterable[int]) -> frozenset[str]:
    """Return the names of the features in the words that ``HWCAPS`` lists."""
    return features_in(tuple(words), "aarch64")


def x86_features(cpuinfo: Iterable[str]) -> frozenset[str]:
    """Return the flags of the first CPU in the lines of ``/proc/cpuinfo``."""
    flags = next((line for line in cpuinfo if line.startswith("flags")), ":")
    return frozenset(flags.partition(":")[2].split())


def cpu_name(cpuinfo: Iterable[str]) -> str:
    """Return what the lines of ``/proc/cpuinfo`` call the first CPU.

    On x86 its model name, family and model; on ARM the implementer and part of MIDR_EL1.
    """
    pairs = (line.partition(":") for line in cpuinfo)
    facts: dict[str, str] = {}
    for key, _, value in pairs:
        facts.setdefault(key.strip(), value.strip())
    if "CPU part" in facts:
        return f"ARM implementer {facts.get('CPU implementer', '?')} part {facts['CPU part']}"
    if "model name" not in facts:
        return "unknown CPU"
    numbers = f"family {facts.get('cpu family', '?')}, model {facts.get('model', '?')}"
    return f"{facts['model name']} ({numbers})"


@cache
def name() -> str:
    """Return what this CPU is called; see `cpu_name`."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return cpu_name(lines)
    except OSError:
        return "unknown CPU"


@cache
def features() -> frozenset[str]:
    """Return the features of this CPU, under the names ``Target.features`` uses."""
    if platform.machine() == "aarch64":
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype = ctypes.c_ulong
        getauxval.argtypes = [ctypes.c_ulong]
        return arm_features(getauxval(kind) for kind in HWCAPS)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return x86_features(lines)
    except OSError:
        return frozenset()


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
