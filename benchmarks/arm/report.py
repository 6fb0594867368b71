"""docs/arm.md: the modelled figures as tables, written anew from the file of figures."""

from __future__ import annotations

from pathlib import Path

from benchmarks.arm import goals
from benchmarks.arm.candidate import INPUTS, OUTPUTS
from benchmarks.arm.goals import Compared
from benchmarks.arm.ours import SYSTEM
from benchmarks.arm.results import Results, Row
from benchmarks.markdown import table
from gq_tvm import files

_BITS = (8, 7, 6, 5, 4, 3, 2, 1)
_MARKS = {True: "met", False: "**missed**", None: "-"}


def write_report(results: Results, path: Path) -> None:
    """Write the page: whole, or as it was."""
    files.write_text(path, render(results))


def render(results: Results) -> str:
    """The page in Markdown."""
    parts = [
        _head(results),
        _cores_section(results),
        _goal_section(results),
        _instruction_section(results),
        *(_core_section(results, core) for core in results.cores),
        _absent_section(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Results) -> str:
    facts = table(["", ""], results.facts.items())
    return f"""# ARM, modelled

Written by `python -m benchmarks.arm` from `arm.json`; not to be edited. **Nothing on this page was
measured on a board.** Every kernel multiplies rows by a weight of {OUTPUTS}x{INPUTS} under an
emulator, its result is checked, and the executions of each of its basic blocks are counted; what a
block costs on a core is llvm-mca's figure. A call quantises the activations and multiplies.

All figures are for one weight and one row (a multiplication and an addition).

- *instructions*: counted, of the whole call.
- *cycles*: modelled, with all data in the first-level cache.
- *streaming*: modelled, with the weights, read once a call, coming from the level of memory that
  holds them.
- *x int8*: cycles over those of our fastest kernel of 8-bit weights, same rows.

{facts}"""


def _cores_section(results: Results) -> str:
    lines = [
        [name, one["model"], one["places"], one["source"]] for name, one in results.cores.items()
    ]
    heads = ["core", "llvm-mca", "the weights lie in", "assumed"]
    return "## Cores\n\n" + table(heads, lines)


def _goal_section(results: Results) -> str:
    lines = [_compared(one) for one in goals.cycles(results)]
    if not lines:
        return ""
    heads = ["goal", "core", "ours", "against", "theirs", "ratio", "at most", "", ""]
    text = (
        "Ours at a bit-width is the kernel that the compiler chooses unasked. Cycles are those "
        "with all data in the first-level cache; the last column has the ratio of *streaming*."
    )
    return f"## Goals\n\n{text}\n\n" + table(heads, lines)


def _instruction_section(results: Results) -> str:
    parts = []
    for codebook, what in (
        ("any", "Their kernels that take any codebook, as ours do"),
        ("uniform", "Their kernels of equally spaced weights, which need no look-up"),
    ):
        compared = list(goals.instructions(results, codebook))
        if not compared:
            continue
        missed = [one for one in compared if not one.met]
        met = len(compared) - len(missed)
        parts.append(f"{what}: met in {met} of {len(compared)} comparisons.")
        if missed:
            heads = ["missed", "core", "ours", "against", "theirs", "ratio", "at most", ""]
            parts.append(table(heads, (_compared(one)[:-1] for one in missed)))
    if not parts:
        return ""
    text = (
        "No more instructions than torchao and KleidiAI where they have a kernel for int8 "
        "activations and as many bits, whichever of a system's is leanest (core x rows x bits x "
        "system)."
    )
    return "\n\n".join(["## Instructions beside torchao and KleidiAI", text, *parts])


def _compared(one: Compared) -> list[str]:
    limit = "-" if one.limit is None else f"{one.limit:.2f}"
    figures = [f"{one.ours:.4f}", one.against, f"{one.theirs:.4f}", f"{one.ratio:.2f}", limit]
    return [one.goal, one.core, *figures, _MARKS[one.met], one.note]


def _core_section(results: Results, core: str) -> str:
    systems = sorted({one.system for one in results.rows if one.core == core} - {SYSTEM})
    heads = ["rows", "bits", "kernel", "kB", *_FIGURES]
    for system in systems:
        heads += [f"{system} kernel", "instructions", "cycles"]
    lines, shown = [], set()
    for rows in sorted({one.rows for one in results.rows if one.core == core}):
        for bits in _BITS:
            ours = goals.chosen(results, core, rows, bits)
            if ours is None:
                continue
            shown.add(ours)
            theirs = [goals.fastest(results, core, rows, bits, system) for system in systems]
            line = [str(rows), str(bits), f"`{ours.name}`", _kilobytes(ours)]
            line += _figures(results, ours)
            for one in theirs:
                line += _peer(one)
                shown |= {one} if one else set()
            lines.append(line)
    text = f"## {core}\n\nint8 activations: the kernels that users get.\n\n"
    text += table(heads, lines)
    rest = [one for one in results.rows if one.core == core and one not in shown]
    return text + "\n\nThe others.\n\n" + _others(results, rest) if rest else text


_FIGURES = ("instructions", "cycles", "x int8", "streaming", "x int8")


def _figures(results: Results, row: Row) -> list[str]:
    int8 = goals.int8(results, row.core, row.rows)
    values = [f"{row.share(row.instructions):.4f}"]
    for own, plain in (
        (row.cycles, int8.cycles if int8 else None),
        (row.streaming, int8.streaming if int8 else None),
    ):
        values += [f"{row.share(own):.4f}", f"{own / plain:.2f}" if plain else "-"]
    return values


def _peer(row: Row | None) -> list[str]:
    if row is None:
        return ["-", "-", "-"]
    return [row.name, f"{row.share(row.instructions):.4f}", f"{row.share(row.cycles):.4f}"]


def _others(results: Results, rest: list[Row]) -> str:
    lines = [
        [
            str(row.rows), row.system, f"`{row.name}`", str(row.bits), row.activation,
            row.codebook, _kilobytes(row), *_figures(results, row),
        ]
        for row in rest
    ]  # fmt: skip
    heads = ["rows", "system", "kernel", "bits", "activations", "codebook", "kB", *_FIGURES]
    return table(heads, lines)


def _kilobytes(row: Row) -> str:
    return f"{row.weight_bytes / 1e3:,.0f}"


def _absent_section(results: Results) -> str:
    if not results.absent:
        return ""
    return "## Not modelled\n\n" + table(["candidate", "why"], results.absent.items())
