"""From counted blocks to traces: instructions in a row that were executed equally often.

QEMU's blocks overlap and end where it likes, so executions are counted by instruction first. A
trace ends where the count changes, behind a jump, and behind a branch backwards, which ends a loop;
a forward branch that was not taken is part of its trace.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections import Counter
from dataclasses import dataclass

from gq_tvm.errors import Error
from gq_tvm.modelled.counting import Block
from gq_tvm.modelled.elf import Elf
from gq_tvm.modelled.tools import Tools

_JUMPS = re.compile(r"(b|br|bx|ret|retq|jmp|jmpq)\b|pop\s.*\bpc\b")
_BACKWARDS = re.compile(r"(b\.?\w*|cbn?z|tbn?z|j\w+)\s(.*[\s#])?-\d+$")


@dataclass(frozen=True)
class Trace:
    """Instructions in a row.

    Attributes:
        offset: Of the first, in the file.
        text: Each, as llvm-mc has it.
        first: Executions by the first call.
        others: Executions by all other calls.
    """

    offset: int
    text: tuple[str, ...]
    first: int
    others: int


def traces(tools: Tools, triple: str, code: Elf, blocks: tuple[Block, ...]) -> list[Trace]:
    """The traces of blocks, in order. Raises `Error` if code cannot be disassembled."""
    first: Counter[int] = Counter()
    others: Counter[int] = Counter()
    text: dict[int, tuple[str, int]] = {}
    for block, listed in zip(blocks, _disassemble(tools, triple, code, blocks), strict=True):
        at = block.offset
        for instruction, size in zip(listed, block.sizes, strict=True):
            text[at] = (instruction, size)
            first[at] += block.first
            others[at] += block.others
            at += size
    found: list[Trace] = []
    run: list[int] = []
    for at in sorted(text):
        if run and not _goes_on(text[run[-1]], run[-1], at, first, others):
            found.append(_trace(run, text, first, others))
            run = []
        run.append(at)
    return [*found, _trace(run, text, first, others)] if run else found


def _goes_on(
    last: tuple[str, int], before: int, at: int, first: Counter[int], others: Counter[int]
) -> bool:
    instruction, size = last
    alike = first[before] == first[at] and others[before] == others[at]
    ends = _JUMPS.match(instruction) or _BACKWARDS.match(instruction)
    return alike and before + size == at and not ends


def _trace(
    run: list[int], text: dict[int, tuple[str, int]], first: Counter[int], others: Counter[int]
) -> Trace:
    return Trace(run[0], tuple(text[at][0] for at in run), first[run[0]], others[run[0]])


def _disassemble(
    tools: Tools, triple: str, code: Elf, blocks: tuple[Block, ...]
) -> list[list[str]]:
    """The instructions of each block."""
    given, ends = [], [0]
    for block in blocks:
        at = block.offset
        for size in block.sizes:
            given.append(" ".join(f"0x{byte:02x}" for byte in code.data[at : at + size]))
            at += size
        ends.append(len(given))
    command = [*tools.command("llvm-mc"), "-disassemble", f"-triple={triple}"]
    done = subprocess.run(
        [*command, *_features(triple)],
        input="\n".join(given),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.strip().replace("\t", " ") for line in done.stdout.splitlines()]
    listed = [line.partition("#  ")[0].strip() for line in lines if line and line[0] not in ".#/@"]
    if done.returncode or done.stderr or len(listed) != len(given):
        reason = (done.stderr.strip().splitlines() or ["other instructions than QEMU"])[0]
        raise Error(f"llvm-mc cannot disassemble {code.path.name} ({reason})")
    return [listed[start:stop] for start, stop in itertools.pairwise(ends)]


def _features(triple: str) -> list[str]:
    if triple.startswith("x86"):
        return []
    if triple.startswith("arm"):
        return ["-mattr=+neon,+vfp4,+hwdiv-arm,+dotprod"]
    return ["-mattr=+all"]
