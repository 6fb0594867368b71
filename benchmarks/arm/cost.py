"""What a call costs: counted under emulation, its cycles modelled (`gq_tvm.modelled`)."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.arm.candidate import Call
from gq_tvm.errors import Error
from gq_tvm.modelled import times, tools
from gq_tvm.targets import Target
from gq_tvm.targets.core import Core


@dataclass(frozen=True)
class Cost:
    """A call that comes after another.

    Attributes:
        instructions: Counted.
        cycles: Modelled, with all data in the first-level cache.
        streaming: Modelled, with all data where a model of the core's caches finds them.
    """

    instructions: int
    cycles: float
    streaming: float


def cost(call: Call, target: Target) -> Cost:
    """Call a kernel on an emulated core and model what that takes.

    Raises:
        Error: it computes something else than it should, or `gq_tvm.modelled` refuses it.
    """
    found, results = times.call(call.library, call.function, call.tensors, target)
    wrong = call.wrong(results[-1])
    if wrong:
        raise Error(wrong)
    assert target.core is not None  # or there were no model
    return Cost(round(found.instructions), found.cycles, found.hot * target.core.hertz / 1e6)


def runner() -> list[str]:
    """The command line of the kernel runner on an emulated 64-bit core that has every feature."""
    guest = tools.setup("aarch64")
    return [*guest.emulator("max"), str(guest.runner)]


def place(core: Core, size: int) -> str:
    """The first level of memory that holds so many bytes."""
    levels = (f"L{n}" for n, cache in enumerate(core.caches, 1) if size <= cache.size)
    return next(levels, "DRAM")


def versions() -> dict[str, str]:
    """The versions of QEMU and of LLVM, whose llvm-mca it is."""
    return tools.setup("aarch64").tools.versions
