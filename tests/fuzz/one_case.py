"""One file before one reader: whether it is taken or refused as it should be."""

from __future__ import annotations

import resource
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz.readers import Reader
from gq_tvm.errors import Error

_TIMES = 64  # the bytes of the file that a reader may take as memory
_ADDRESSES = 4 << 30  # beyond what the process has
_NO_MEMORY = ("allocate memory", "MemoryError", "not enough memory", "std::bad_alloc")


@dataclass(frozen=True)
class Fault:
    """What a reader did that it must not.

    Attributes:
        kind: What faults of one cause have in common.
        account: The whole of it.
    """

    kind: str
    account: str


def made(reader: Reader, good: list[bytes], seed: int) -> bytes:
    """The file of a seed."""
    chance = Random(f"{reader.name} {seed}")
    return reader.change(chance.choice(good), chance)


def tried(reader: Reader, path: Path) -> Fault | None:
    """Let a reader read a file; what is wrong with what it did."""
    before = _peak()
    try:
        reader.read(path)
    except Error as refusal:
        if found := _wrong_refusal(refusal):
            return Fault(found, f"{found}: {refusal}")
    except Exception as failure:
        frames = traceback.extract_tb(failure.__traceback__)
        ours = [one for one in frames if "gq_tvm" in one.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        kind = f"{type(failure).__name__} at {where}"
        return Fault(kind, "".join(traceback.format_exception(failure)))
    taken = _peak(now=False) - before
    if taken > reader.memory + _TIMES * path.stat().st_size:
        return Fault("memory", f"took {taken >> 20} MiB for a file of {path.stat().st_size} bytes")
    return None


def _wrong_refusal(refusal: Error) -> str:
    if not str(refusal):
        return "a refusal that says nothing"
    cause: BaseException | None = refusal
    while cause is not None:
        if any(word in f"{type(cause).__name__} {cause}" for word in _NO_MEMORY):
            return "memory asked for before a size was believed"
        cause = cause.__cause__
    return ""


def _peak(now: bool = True) -> int:
    """The most memory this process had since it was last asked to begin, in bytes (Linux)."""
    if now:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM in /proc/self/status")


def limited() -> None:
    """Limit what this process may take from now on; not its time."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
