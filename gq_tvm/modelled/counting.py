"""What a program executes: blocks and reads, counted by a plugin of QEMU."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gq_tvm.errors import Error
from gq_tvm.modelled.elf import Elf, Range
from gq_tvm.modelled.tools import Guest
from gq_tvm.targets.core import Core

LINE = 64  # bytes
_SECONDS = 120.0


@dataclass(frozen=True)
class Block:
    """Code that is executed from its first instruction to its last.

    Attributes:
        offset: In the file.
        first: How often the first call executed it.
        others: How often all other calls did.
        sizes: Bytes of each instruction.
    """

    offset: int
    first: int
    others: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Counts:
    """What was counted.

    Attributes:
        calls: Calls of the entry.
        blocks: By their offsets.
        first: Lines the first call found in each cache and, last, in memory.
        others: Lines all other calls found there.
    """

    calls: int
    blocks: tuple[Block, ...]
    first: tuple[int, ...]
    others: tuple[int, ...]


def count(
    guest: Guest,
    cpu: str,
    program: Sequence[str],
    code: Elf,
    entry: str,
    ranges: Sequence[Range],
    core: Core,
) -> Counts:
    """Run a program under QEMU and count what it executes of one file.

    Args:
        guest: The machine.
        cpu: QEMU's name of its CPU.
        program: The command line.
        code: The file: the program or a library it loads.
        entry: The function whose executions are the calls.
        ranges: The part of the file that is counted.
        core: Whose caches are modelled.

    Raises:
        Error: the program fails or does not end, or never calls the entry.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        options = [
            f"code={code.path.resolve()}",
            f"out={out}",
            f"entry={code.function(entry).start}",
            *(f"range={one.start}-{one.stop}" for one in ranges),
            *(f"cache={cache.size // LINE}" for cache in core.caches),
        ]
        plugin = ",".join(one.replace(",", ",,") for one in (str(guest.tools.plugin), *options))
        command = [*guest.emulator(cpu), "-plugin", plugin, *program]
        try:
            done = subprocess.run(
                command, env={}, capture_output=True, text=True, check=False, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise Error(f"{entry} took longer than {_SECONDS:g} s under QEMU") from None
        if done.returncode:
            reason = " ".join(done.stderr.split()) or f"code {done.returncode}"
            raise Error(f"{entry} failed under QEMU ({reason})")
        text = out.read_text()
    return _parse(text, entry)


def _parse(text: str, entry: str) -> Counts:
    calls, blocks, lines = 0, [], []
    for name, *numbers in map(str.split, text.splitlines()):
        values = list(map(int, numbers))
        if name == "calls":
            (calls,) = values
        elif name == "block":
            offset, first, others, *sizes = values
            blocks.append(Block(offset, first, others, tuple(sizes)))
        else:
            lines.append(values)
    if not calls:
        raise Error(f"the program never calls {entry}")
    found_first, found_others = zip(*lines, strict=True)
    executed = [one for one in _whole(blocks) if one.first + one.others]
    ordered = sorted(executed, key=lambda block: (block.offset, block.sizes))
    return Counts(calls, tuple(ordered), found_first, found_others)


def _whole(blocks: list[Block]) -> list[Block]:
    """Blocks without the halves of instructions.

    Of an x86 instruction across two pages QEMU first tells the half in the first page as the last
    of a block, then takes it back, but not from plugins, and begins a block with the whole.
    """
    begins = {block.offset: block.sizes[0] for block in blocks}
    found = []
    for block in blocks:
        last = block.offset + sum(block.sizes[:-1])
        half = block.sizes[-1] < begins.get(last, 0)
        found.append(replace(block, sizes=block.sizes[:-1]) if half else block)
    return [block for block in found if block.sizes]
