"""The cycles of traces, by llvm-mca: a static model of a core's pipelines, with no caches.

llvm-mca takes a trace as the body of a loop. That is right for inner loops, which is where the time
goes; of other traces it lets one overlap the next, as the core does. The cycles are those an
iteration adds once the pipelines are full.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from gq_tvm.errors import Error
from gq_tvm.modelled.tools import Tools
from gq_tvm.targets import Target
from gq_tvm.targets.instruction_sets import flags

_FEW, _MANY = 8, 40  # iterations


def cycles(tools: Tools, target: Target, texts: Sequence[tuple[str, ...]]) -> list[float]:
    """The cycles of an iteration of each trace on a target's core.

    Raises:
        Error: llvm-mca has no model of an instruction, or of the core.
    """
    alike = list(dict.fromkeys(texts))
    few, many = (_run(tools, target, alike, iterations) for iterations in (_FEW, _MANY))
    each = {
        text: (late - early) / (_MANY - _FEW)
        for text, early, late in zip(alike, few, many, strict=True)
    }
    return [each[text] for text in texts]


def _run(
    tools: Tools, target: Target, texts: Sequence[tuple[str, ...]], iterations: int
) -> list[int]:
    """The cycles of so many iterations of each trace."""
    assert target.core is not None
    lines = []
    for number, text in enumerate(texts):
        lines += [f"# LLVM-MCA-BEGIN {number}", *text, "# LLVM-MCA-END"]
    command = [*tools.command("llvm-mca"), f"-mtriple={target.triple}", *target.core.mca]
    if target.machine != "x86_64":
        names = flags(target.features, target.machine)
        command.append("-mattr=" + ",".join(f"+{name}" for name in names))
    command += [f"-iterations={iterations}", "-json"]
    done = subprocess.run(
        command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode:
        problems = (line for line in done.stderr.splitlines() if "error:" in line)
        reason = next(problems, f"code {done.returncode}").partition("error:")[2].strip()
        quoted = next((line for line in done.stderr.splitlines() if line.startswith(" ")), "")
        what = f"{reason}: {quoted.strip()}" if quoted else reason
        raise Error(f"llvm-mca has no model of this code on {target.name} ({what})")
    regions = json.loads(done.stdout)["CodeRegions"]
    found = {int(one["Name"]): one["SummaryView"]["TotalCycles"] for one in regions}
    return [found[number] for number in range(len(texts))]
