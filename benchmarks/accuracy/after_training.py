"""docs/accuracy_after_training.md and .json: the float networks, compressed as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cell import CALIBRATION
from benchmarks.accuracy.cells import AFTER_TRAINING, NETWORKS, ROWS, TITLES
from benchmarks.accuracy.data import BATCH, Data
from benchmarks.accuracy.goals import Goal
from benchmarks.accuracy.report import Results, goal_lines, plain, size, speaker, wer
from benchmarks.accuracy.work import ROLES
from benchmarks.machine import describe
from gq_tvm import files

_LEAST_GAP = 1.0  # points of WER above which a gap is to be halved

_INTRODUCTION = f"""\
# Accuracy without further training

Written by `python -m benchmarks.accuracy --after-training`; do not edit. Networks, speakers, rows
and error rates are those of [accuracy.md](accuracy.md), but nothing is trained after the float
network, which was trained anew for this table: compare within it.

- **Rounding**: a uniform grid up to a matrix's largest weight. **Lloyd-Max**: the codebook that
  errs least in the weights of a matrix, not knowing any inputs.
- **Compress**: `quantize.compress` with {CALIBRATION} batches of {BATCH} utterances of the training
  set; by default 32 inputs share a scale of 16 bits, in the column beside it a row does.
- Size: what is deployed, as in accuracy.md.
"""


def write(data: Data, folder: Path, circumstances: dict[str, Any]) -> None:
    """Write both files into a folder, from whatever result files are there."""
    results = Results(data)
    lines = [_INTRODUCTION]
    for network in NETWORKS:
        lines += _table(results, network)
    lines += goal_lines(goals(results))
    machine, versions = describe(), circumstances["versions"]
    commits = sorted({one for _, entry in results.items() for one in entry.commits})
    lines += [
        "\n## Made\n",
        f"On {machine['cpu']}, PyTorch {versions['torch']}; the cells are of the commits "
        f"{', '.join(commits)}.",
    ]
    files.write_text(folder / "accuracy_after_training.md", "\n".join(lines) + "\n")
    text = json.dumps(plain(results, circumstances), indent=1)
    files.write_text(folder / "accuracy_after_training.json", text + "\n")


def goals(results: Results) -> Iterator[Goal]:
    """At 2 bits and below, half of Lloyd-Max's distance to the float network; or no worse."""
    for network in NETWORKS:
        floats = results.entry(network, "fp32", "float")
        for row in ("2", "2-1"):
            before, after = (
                results.entry(network, row, method) for method in ("lloyd-max", "compress")
            )
            if floats is None or before is None or after is None:
                continue
            for role in ROLES:
                reference = floats.errors[role].rate
                gap = before.errors[role].rate - reference
                left = after.errors[role].rate - reference
                place = f"{TITLES[network]}, {role}: {ROWS[row].title}"
                if gap > _LEAST_GAP:
                    yield Goal(
                        f"{place}, half of Lloyd-Max's distance to the float network's WER",
                        f"{left:+.1f} of {gap:+.1f}",
                        left <= gap / 2,
                    )
                else:
                    more, (low, high) = after.errors[role].minus(before.errors[role])
                    yield Goal(
                        f"{place}, no more errors than Lloyd-Max's (or the interval holds 0)",
                        f"{more:+.1f} [{low:+.1f}, {high:+.1f}]",
                        low <= 0,
                    )


def _table(results: Results, network: str) -> list[str]:
    lines = [f"\n## {TITLES[network]}\n"]
    floats = results.entry(network, "fp32", "float")
    if floats is None:
        return [*lines, "Not measured yet."]
    heard = ", ".join(f"{role} {wer(floats, role)}" for role in ROLES)
    lines.append(f"The float network: {size(floats, floats)}, WER {heard}.")
    for role in ROLES:
        rows = []
        for row, what in ROWS.items():
            entries = [results.entry(network, row, method) for method in AFTER_TRAINING]
            if any(entries):
                cells = (
                    wer(one, role) + (f", {one.size >> 10} KiB" if one else "") for one in entries
                )
                rows.append([what.title, *cells])
        lines += speaker(role, ["weights", *AFTER_TRAINING.values()], rows)
    return lines
