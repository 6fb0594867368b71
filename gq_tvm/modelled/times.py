"""Modelled times of kernels: what a core would take, with no such core at hand.

QEMU runs a kernel and counts what it executes and where a model of the caches finds what it reads;
llvm-mca says how many cycles each part of the code takes; the target's figures say how fast the
caches are. The result is the same every time. It ranks the schedules of a kernel; it is no
measurement, and nothing that shows it may call it one.

Of a core that runs out of order the longer of computing and of moving data is its time, as in the
roofline model: hardware prefetchers and its many loads in flight hide the shorter. A core that runs
in order waits at the first use of what is not there, prefetchers help it, and half of the shorter
is added (an assumption).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from numpy.typing import NDArray

from gq_tvm import cache, files
from gq_tvm.errors import Error
from gq_tvm.modelled import tools
from gq_tvm.modelled.counting import LINE, Counts, count
from gq_tvm.modelled.elf import Elf
from gq_tvm.modelled.pipeline import cycles
from gq_tvm.modelled.traces import traces
from gq_tvm.runtime.devices import kernel_runner
from gq_tvm.targets import Target
from gq_tvm.targets.core import Core
from gq_tvm.targets.instruction_sets import ISAS

_HIDDEN = 0.5  # of the shorter of computing and moving, on a core that runs in order
_CALLS = 2  # the first finds the caches empty


@dataclass(frozen=True)
class Part:
    """A trace of a kernel's code.

    Attributes:
        offset: In the file.
        instructions: Of it.
        executions: By a hot call.
        cycles: Of one execution.
    """

    offset: int
    instructions: int
    executions: float
    cycles: float


@dataclass(frozen=True)
class Modelled:
    """What a call of a kernel should take: modelled, not measured.

    Attributes:
        instructions: Executed by a hot call.
        cycles: Of computing, were all data in the first cache.
        hot_bytes: Moved into the first cache by a call that comes after another.
        cold_bytes: Moved by a call that finds the caches empty.
        hot_traffic: Cycles of moving those.
        cold_traffic: Cycles of moving these.
        hot: Microseconds of a call that comes after another.
        cold: Microseconds of a call that finds the caches empty.
        blocks: The parts, in the order of the code.
    """

    instructions: float
    cycles: float
    hot_bytes: float
    cold_bytes: float
    hot_traffic: float
    cold_traffic: float
    hot: float
    cold: float
    blocks: tuple[Part, ...]


def check(target: Target) -> None:
    """Raise `Error` if there is no model of a target."""
    if target.core is None or not target.core.mca:
        raise Error(f"nothing is known of the speed of {target.name}; choose a target with a core")
    if target.machine == "armhf":
        raise Error(f"{target.name} cannot be modelled: no instructions of 32-bit ARM are counted")
    isa = ISAS.get(target.instruction_set)
    if isa is not None and not isa.emulated:
        raise Error(f"QEMU has no {isa.name}, so {target.name} cannot be modelled; use x86-64-v3")


def key(target: Target) -> str:
    """A key of all that modelled times on a target depend on but the kernel."""
    facts = (target.name, repr(target.core), *(one.name for one in _folders(target)))
    digest = hashlib.sha256("\n".join(facts).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _folders(target: Target) -> tuple[Path, Path]:
    guest = tools.locate_guest(target.machine)
    return guest.folder, guest.tools.folder


def model(library: Path, function: str, tensors: Sequence[NDArray], target: Target) -> Modelled:
    """Model a call of a kernel, as ``export_library`` wrote it; known ones are not run again.

    Args:
        library: Its file.
        function: Its name.
        tensors: Its arguments.
        target: The device, of which QEMU runs the code and llvm-mca models the core.

    Raises:
        Error: there is no such model, the tools cannot be set up, or the kernel fails.
    """
    check(target)
    known = _known(library, function, tensors, target)
    try:
        return _read(known.read_text())
    except (OSError, ValueError, TypeError, KeyError):
        found, _ = call(library, function, tensors, target)
    _write(known, json.dumps(asdict(found)))
    return found


def call(
    library: Path, function: str, tensors: Sequence[NDArray], target: Target
) -> tuple[Modelled, list[NDArray]]:
    """Call a kernel under QEMU: what the call should take, and its arguments as they are then.

    Arguments and errors are those of `model`.
    """
    check(target)
    guest = tools.setup(target.machine, progress=_quiet)
    code = Elf(library)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tensors"
        kernel_runner.write_tensors(file, tensors)
        program = [str(guest.runner), str(library.resolve()), function, str(file), str(_CALLS)]
        entry = f"__tvm_ffi_{function}"
        assert target.core is not None
        counts = count(guest, _cpu(target), program, code, entry, code.code, target.core)
        results = kernel_runner.read_tensors(file, tensors)
    return _weigh(guest, target, code, counts), results


def model_program(
    command: Sequence[str],
    binary: Path,
    symbol: str,
    target: Target,
    others: Sequence[str] | None = (),
) -> Modelled:
    """Model what a program spends in one function, whoever compiled it.

    Args:
        command: Runs the program, without QEMU; it calls the function twice or more, and what it
            loads must be found by absolute paths or in the C library.
        binary: The file that has the function: the program, or a library it loads.
        symbol: The function. Each execution of its first instruction counts as a call, so that must
            not be in a loop.
        target: The device.
        others: Functions it calls whose code counts too; None counts all code of `binary` from the
            first call to the end.

    Raises:
        Error: as `model`; or the function is called less than twice.
    """
    check(target)
    guest = tools.setup(target.machine, progress=_quiet)
    code = Elf(binary)
    ranges = code.code if others is None else [code.function(one) for one in (symbol, *others)]
    assert target.core is not None
    counts = count(guest, _cpu(target), command, code, symbol, ranges, target.core)
    if counts.calls < _CALLS:
        raise Error(f"{Path(command[0]).name} calls {symbol} once: let it call it twice or more")
    return _weigh(guest, target, code, counts)


def _quiet(_: str) -> None:
    """Progress of a set-up nobody watches."""


def _cpu(target: Target) -> str:
    return target.emulator_cpu or "max"


def _weigh(guest: tools.Guest, target: Target, code: Elf, counts: Counts) -> Modelled:
    """Join counts with the cycles of their code."""
    assert target.core is not None
    core, later = target.core, counts.calls - 1
    found = traces(guest.tools, target.triple, code, counts.blocks)
    each = cycles(guest.tools, target, [one.text for one in found])
    pairs = list(zip(found, each, strict=True))
    hot = sum(one.others * cost for one, cost in pairs) / later
    cold = sum(one.first * cost for one, cost in pairs)
    hot_traffic = _traffic(core, counts.others) / later
    cold_traffic = _traffic(core, counts.first)
    return Modelled(
        instructions=sum(one.others * len(one.text) for one in found) / later,
        cycles=hot,
        hot_bytes=LINE * sum(counts.others[1:]) / later,
        cold_bytes=LINE * sum(counts.first[1:]),
        hot_traffic=hot_traffic,
        cold_traffic=cold_traffic,
        hot=_microseconds(core, hot, hot_traffic),
        cold=_microseconds(core, cold, cold_traffic),
        blocks=tuple(
            Part(one.offset, len(one.text), one.others / later, cost) for one, cost in pairs
        ),
    )


def _traffic(core: Core, lines: Sequence[int]) -> float:
    """Cycles in which lines come from where they were found; those of the first cache are free."""
    speeds = [*(one.bandwidth for one in core.caches), core.memory]
    return sum(LINE * number / speed for number, speed in list(zip(lines, speeds, strict=True))[1:])


def _microseconds(core: Core, computing: float, moving: float) -> float:
    both = max(computing, moving)
    if core.in_order:
        both += _HIDDEN * min(computing, moving)
    return 1e6 * both / core.hertz


def _known(library: Path, function: str, tensors: Sequence[NDArray], target: Target) -> Path:
    """The file of a kernel's result: its name is a key of all that the result depends on."""
    digest = hashlib.sha256(library.read_bytes())
    for array in tensors:
        digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    digest.update(f"{function} {key(target)}".encode())
    return cache.root() / "modelled" / f"{digest.hexdigest()[:32]}.json"


def _read(text: str) -> Modelled:
    fields = json.loads(text)
    found = Modelled(**{**fields, "blocks": ()})
    return replace(found, blocks=tuple(Part(**one) for one in fields["blocks"]))


def _write(path: Path, text: str) -> None:
    """Keep a result; a cache that cannot be written is no reason to fail."""
    with suppress(Error):
        files.write_text(path, text)
