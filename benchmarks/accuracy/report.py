"""docs/accuracy.md and .json, from whatever result files are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy import cell as cells
from benchmarks.accuracy.cells import (
    ABLATED,
    ABLATIONS,
    METHODS,
    NETWORKS,
    ROWS,
    SEEDS,
    TITLES,
    Cell,
)
from benchmarks.accuracy.data import Data
from benchmarks.accuracy.goals import Goal, goals
from benchmarks.accuracy.statistics import Errors
from benchmarks.accuracy.work import ROLES, compiled_file, result_file
from benchmarks.machine import describe
from benchmarks.markdown import table
from gq_tvm import files


@dataclass(frozen=True)
class Entry:
    """What all seeds of one cell gave."""

    errors: dict[str, Errors]
    size: int
    seeds: int
    cpu_seconds: float
    utterances: int
    differing: int | None
    commits: frozenset[str]


class Results:
    """Result files by network, row, method and ablation."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._texts = {role: [one.text for one in data.spoken(role)] for role in ROLES}
        self._kept: dict[Cell, Entry | None] = {}

    def entry(self, network: str, row: str, method: str, ablation: str = "") -> Entry | None:
        """All seeds that are there, or None."""
        key = Cell(network, row, method, 0, ablation)
        if key not in self._kept:
            self._kept[key] = self._read(key)
        return self._kept[key]

    def items(self) -> Iterator[tuple[Cell, Entry]]:
        """All that were asked for and are there."""
        return ((cell, entry) for cell, entry in self._kept.items() if entry is not None)

    def _read(self, key: Cell) -> Entry | None:
        found, compiled = [], []
        for seed in SEEDS:
            cell = Cell(key.network, key.row, key.method, seed, key.ablation)
            path = result_file(self._data, cell)
            if path.exists():
                found.append(json.loads(path.read_text()))
                verified = compiled_file(self._data, cell)
                if verified.exists():
                    compiled.append(json.loads(verified.read_text()))
        if not found:
            return None
        errors = {
            role: Errors.count(self._texts[role], [one["heard"][role] for one in found])
            for role in ROLES
        }
        return Entry(
            errors,
            found[0]["bytes"],
            len(found),
            sum(one["training_cpu_seconds"] for one in found),
            sum(one["utterances"] for one in compiled),
            sum(one["differing"] for one in compiled) if compiled else None,
            frozenset(one["circumstances"]["commit"] for one in found),
        )


def write(data: Data, folder: Path, circumstances: dict[str, Any]) -> None:
    """Write both files into a folder."""
    results = Results(data)
    lines = [_INTRODUCTION.format(steps=cells.FINE.steps, base=_base_steps())]
    for network in NETWORKS:
        lines += _table(results, network)
    lines += goal_lines(goals(results))
    lines += _ablations(results)
    lines += _cost(results, circumstances)
    files.write_text(folder / "accuracy.md", "\n".join(lines) + "\n")
    text = json.dumps(plain(results, circumstances), indent=1)
    files.write_text(folder / "accuracy.json", text + "\n")


def _base_steps() -> str:
    steps = {name: sum(one.steps for one in schedules) for name, schedules in cells.BASE.items()}
    return ", ".join(f"{TITLES[name]}: {count}" for name, count in steps.items())


_INTRODUCTION = """\
# Accuracy

Written by `python -m benchmarks.accuracy`; do not edit. Every cell is one quantised recogniser. All
of a network start from the same float weights (steps: {base}); the trained ones are trained for
{steps} steps more on the same batches. Each is decoded with hard weights - greedily, streaming
features - on a development speaker, who served every choice, and on a test speaker, who served
none.

- Task: English digits at 8 kHz, alone (500 recordings a speaker) and joined (100 strings of two to
  five isolated recordings: not continuous speech). Trained on three recorded speakers and
  synthetic voices; neither evaluated speaker was heard in training.
- WER in percent. In brackets 95% of bootstrap resamples of the utterances. Joined strings repeat
  words that are there alone too, and seeds are not resampled: the intervals are on the narrow side.
  Cells with a superscript are means of so many trainings with other batches and seeds.
- All trained cells, fp32 among them, have the same further steps and learning rate, and the float
  network they start from as a teacher; the steps of LSQ learn by their logarithm, as fast as GQ's
  outer centroids. One recipe for all rows. Its learning rate, the hardness schedule, and that GQ
  measures distances between weights and not between companded ones were chosen on the development
  speaker; LSQ's rate was set to match GQ's and not searched.
- Size: what is deployed - packed weights, codebooks, and the biases, norms and positions that stay
  in float32. Embedding, output layer and depthwise convolutions have 8 bits in every row.
"""


def _table(results: Results, network: str) -> list[str]:
    lines = [f"\n## {TITLES[network]}\n"]
    floats, baseline = (
        results.entry(network, "fp32", "fp32"),
        results.entry(network, "int8", "int8"),
    )
    if floats is None:
        return [*lines, "Not trained yet."]
    lines += ["| | size | development | test |", "|---|---|---|---|"]
    for title, entry in (("fp32", floats), ("8-bit QAT (uniform)", baseline)):
        if entry is not None:
            wers = " | ".join(wer(entry, role) for role in ROLES)
            lines.append(f"| {title} | {size(entry, floats)} | {wers} |")
    for role in ROLES:
        rows = []
        for row, what in ROWS.items():
            entries = [results.entry(network, row, method) for method in METHODS]
            deployed = next((size(e, floats) for e in reversed(entries) if e), "")
            rows.append([what.title, deployed, *(wer(e, role) for e in entries)])
        lines += speaker(role, ["weights", "size", *METHODS.values()], rows)
    return lines


def speaker(role: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The table of a role."""
    return [f"\n{role.capitalize()} speaker:\n", table(heads, rows)]


def goal_lines(found: Iterable[Goal]) -> list[str]:
    """Goals as a section."""
    lines = ["\n## Goals\n", "| | | |", "|---|---|---|"]
    for goal in found:
        lines.append(f"| {goal.title} | {goal.figures} | {'met' if goal.met else '**missed**'} |")
    return lines


def _ablations(results: Results) -> list[str]:
    usual = results.entry(*ABLATED, "gq")
    if usual is None:
        return []
    lines = [
        f"\n## Ablations: one change at a time, {TITLES[ABLATED[0]]}, {ROWS[ABLATED[1]].title}\n",
        "One seed each, but for the first line: differences of a point are not told apart.\n",
        "| | development | test |",
        "|---|---|---|",
    ]
    entries = [("as in the table", usual)]
    for name, (title, *_) in ABLATIONS.items():
        entry = results.entry(*ABLATED, "gq", name)
        if entry is not None:
            entries.append((title, entry))
    for title, entry in entries:
        wers = " | ".join(wer(entry, role) for role in ROLES)
        lines.append(f"| {title} | {wers} |")
    return lines


def _cost(results: Results, circumstances: dict[str, Any]) -> list[str]:
    entries = [entry for _, entry in results.items()]
    hours = sum(entry.cpu_seconds for entry in entries) / 3600
    compiled = [entry for entry in entries if entry.differing is not None]
    machine, versions = describe(), circumstances["versions"]
    return [
        "\n## Deployed\n",
        f"{sum(entry.seeds for entry in compiled)} trained recognisers were exported, compiled for "
        f"the machine at hand and decoded the same recordings one after another: "
        f"{sum(entry.differing or 0 for entry in compiled)} of "
        f"{sum(entry.utterances for entry in compiled)} texts differ from those PyTorch heard.",
        "\n## Cost\n",
        f"{hours:.1f} hours of one core for {sum(entry.seeds for entry in entries)} cells "
        f"(the float networks they start from not included), on {machine['cpu']}, "
        f"PyTorch {versions['torch']}; the cells are of the commits "
        f"{', '.join(sorted({commit for entry in entries for commit in entry.commits}))}.",
    ]


def wer(entry: Entry | None, role: str) -> str:
    """Percent with its interval, and how many trainings it is the mean of."""
    if entry is None:
        return "-"
    errors = entry.errors[role]
    low, high = errors.interval()
    return f"{errors.rate:.1f}{('', '', '²', '³')[entry.seeds]} [{low:.1f}, {high:.1f}]"


def size(entry: Entry, floats: Entry) -> str:
    """Bytes deployed, and how many times smaller that is than in float."""
    return f"{entry.size / 1024:.0f} KiB ({floats.size / entry.size:.1f}x)"


def plain(results: Results, circumstances: dict[str, Any]) -> dict[str, Any]:
    """All figures that were asked for, for the JSON beside a page."""
    rows = []
    for cell, entry in results.items():
        key = {name: value for name, value in asdict(cell).items() if name != "seed"}
        rates: dict[str, Any] = {}
        for role in ROLES:
            errors = entry.errors[role]
            rates[role] = {
                "wer_percent": round(errors.rate, 2),
                "interval": [round(one, 2) for one in errors.interval()],
                "by_seed": [round(one, 2) for one in errors.rates],
            }
        rows.append(
            {
                **key,
                "bytes": entry.size,
                **rates,
                "differing_when_compiled": entry.differing,
                "commits": sorted(entry.commits),
            }
        )
    return {"machine": describe(), "circumstances": circumstances, "cells": rows}
