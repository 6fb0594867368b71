"""64-bit ARM targets.

Features are those of each core's Technical Reference Manual: SDOT and UDOT are optional in
Armv8.2-A and present in Cortex-A55, A75, A76 and all later cores (Arm ARM DDI 0487, FEAT_DotProd).
QEMU 7.2 has no model of most dot-product cores; Cortex-A76 stands in for them.
"""

from __future__ import annotations

from gq_tvm.targets.target import Target

_NEON = frozenset({"neon"})
_DOTPROD = frozenset({"neon", "dotprod"})


def _plain(name: str, mcpu: str, emulator_cpu: str, description: str) -> Target:
    return Target(name, "aarch64", "neon", _NEON, description, mcpu, emulator_cpu=emulator_cpu)


def _dot(name: str, description: str, emulator_cpu: str = "cortex-a76") -> Target:
    return Target(
        name, "aarch64", "neon-dot", _DOTPROD, description, name, emulator_cpu=emulator_cpu
    )


TARGETS = (
    _plain("arm", "cortex-a72", "cortex-a53", "any 64-bit Cortex-A with NEON (scheduled for A72)"),
    _plain("cortex-a53", "cortex-a53", "cortex-a53", "in-order, Armv8.0 (Raspberry Pi 3)"),
    _plain("cortex-a57", "cortex-a57", "cortex-a57", "out of order, Armv8.0 (Jetson TX1)"),
    _plain("cortex-a72", "cortex-a72", "cortex-a72", "out of order, Armv8.0 (Raspberry Pi 4)"),
    _plain("cortex-a73", "cortex-a73", "cortex-a72", "out of order, Armv8.0"),
    _dot("cortex-a55", "in-order, Armv8.2 with SDOT"),
    _dot("cortex-a75", "out of order, Armv8.2 with SDOT"),
    _dot("cortex-a76", "out of order, Armv8.2 with SDOT (Raspberry Pi 5)"),
    _dot("cortex-a78", "out of order, Armv8.2 with SDOT (Jetson Orin)"),
    _dot("cortex-x1", "out of order, Armv8.2 with SDOT, four vector pipes"),
    _dot("neoverse-n1", "server core close to A76 (cloud stand-in for a board)", "neoverse-n1"),
)
