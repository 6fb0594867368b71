"""Everything known about the devices gq-tvm compiles for.

A new device is one entry in ``x86.py``, ``arm.py`` or ``arm32.py``.
"""

from __future__ import annotations

import difflib
import re

from gq_tvm.errors import Error
from gq_tvm.targets import arm, arm32, native, x86
from gq_tvm.targets.target import Target

TARGETS = {target.name: target for target in (*x86.TARGETS, *arm.TARGETS, *arm32.TARGETS)}
# Best first: the choice for a machine we only know by its features.
_NATIVE_ORDER = ("x86-64-v4", "x86-64-v3", "x86-64", "cortex-a76", "arm")

__all__ = ["TARGETS", "Target", "get", "table"]


def get(name: str | Target) -> Target:
    """Return the target called ``name``; ``"native"`` is the best one for this machine.

    Raises:
        Error: no such target; the text lists the nearest names.
    """
    if isinstance(name, Target):
        return name
    if name == "native":
        return native.best(TARGETS[entry] for entry in _NATIVE_ORDER)
    if name in TARGETS:
        return TARGETS[name]
    if name.lower() in ("cuda", "gpu", "metal", "opencl", "rocm", "vulkan"):
        raise Error(f"{name} is no target: gq-tvm makes code for CPUs; --target help lists them")
    near = _of_board(name) or difflib.get_close_matches(name, [*TARGETS, "native"], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if name.startswith(("cortex", "neoverse")):  # a near name may have instructions this core lacks
        hint += "arm runs on every 64-bit ARM core with NEON, arm32 on every 32-bit one; "
    raise Error(f"unknown target {name!r}; {hint}--target help lists them")


def _of_board(name: str) -> list[str]:
    """The targets whose boards have that name, however it is spelled: rpi4, jetson_orin."""
    wanted = re.sub(r"^r?pi(?=\d)", "raspberrypi", _letters(name))
    boards = {one.name: _letters(one.description.partition("(")[2]) for one in TARGETS.values()}
    return [name for name, found in boards.items() if len(wanted) > 5 and wanted in found]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def table() -> str:
    """Return the text of ``--target help``: a line for each target."""
    rows = [("native", "", "the best target for this machine")]
    rows += [(t.name, t.instruction_set, t.description) for t in TARGETS.values()]
    return "\n".join(f"{name:18} {isa:9} {text}" for name, isa, text in rows)
