"""The figures: rows by problem, kept in one JSON file that runs add to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks.harness import Timing
from gq_tvm import files
from gq_tvm.errors import Error

FORMAT, VERSION = "gq-tvm benchmarks", 1


@dataclass(frozen=True)
class Row:
    """One candidate on one problem.

    Attributes:
        system: Whose code.
        name: Which of it.
        bits: Bits a weight, without scales and codebooks.
        activation: What a row of x becomes before it meets the weights.
        codebook: ``"any"``, ``"fixed"``, or "" for uniform levels.
        detail: What the candidate says of itself.
        weight_bytes: What it holds of the weights.
        error: Relative L2 distance of y from that of the float weights; None if not comparable.
        arithmetic_error: The same from the exact product of its own weights, where known.
        timing: Microseconds.
    """

    system: str
    name: str
    bits: float
    activation: str
    codebook: str
    detail: str
    weight_bytes: int
    error: float | None
    arithmetic_error: float | None
    timing: Timing

    @property
    def label(self) -> str:
        """System and name."""
        return f"{self.system} {self.name}"


@dataclass(frozen=True)
class Figures:
    """One problem, measured.

    Attributes:
        problem: ``kind`` ("layer" or "model"), ``name``, ``threads``, and a layer's sizes.
        circumstances: See ``machine.circumstances``.
        rows: The candidates that ran.
        absent: Label -> one line why it did not run.
    """

    problem: dict[str, Any]
    circumstances: dict[str, Any]
    rows: list[Row]
    absent: dict[str, str]


def key(problem: Mapping[str, Any]) -> str:
    """What tells problems apart: a later measurement of the same replaces the earlier."""
    return f"{problem['name']}, {problem['threads']} threads"


@dataclass
class Results:
    """A file of figures.

    Attributes:
        machine: See ``machine.describe``; one file holds one machine's figures.
        ceilings: By number of threads, see ``ceilings.measure``.
        figures: By `key`.
    """

    machine: dict[str, Any]
    ceilings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)

    def add(self, figures: Figures) -> None:
        """Put a problem in, in place of an earlier measurement of it."""
        self.figures[key(figures.problem)] = figures

    def merge(self, other: Results) -> None:
        """Put the figures of another file in, in place of those of the same problems.

        Raises:
            Error: it holds another machine's.
        """
        if other.machine["cpu"] != self.machine["cpu"]:
            raise Error(
                f"figures of {other.machine['cpu']} and of {self.machine['cpu']} cannot stand in "
                "one file; keep one for each"
            )
        self.ceilings.update(other.ceilings)
        self.figures.update(other.figures)

    def find(self, kind: str, threads: int) -> list[Figures]:
        """The problems of a kind at a number of threads."""
        wanted = (kind, threads)
        return [
            one
            for one in self.figures.values()
            if (one.problem["kind"], one.problem["threads"]) == wanted
        ]

    def get(self, name: str, threads: int) -> Figures | None:
        """One problem, or None if it was not measured."""
        return self.figures.get(key({"name": name, "threads": threads}))

    def save(self, path: Path) -> None:
        """Write the file: whole, or as it was; one row a line."""
        head = {"format": FORMAT, "version": VERSION, "machine": self.machine}
        lines = [f'"{name}": {json.dumps(value)},' for name, value in head.items()]
        lines += [f'"ceilings": {json.dumps(self.ceilings)},', '"figures": [']
        blocks = []
        for one in self.figures.values():
            rows = ",\n".join(json.dumps(_plain(row)) for row in one.rows)
            rest = {"problem": one.problem, "circumstances": one.circumstances}
            blocks.append(
                f'{json.dumps(rest)[:-1]}, "absent": {json.dumps(one.absent)}, "rows": [\n{rows}]}}'
            )
        text = "{\n" + "\n".join(lines) + "\n" + ",\n".join(blocks) + "]\n}\n"
        files.write_text(path, text)

    @staticmethod
    def load(path: Path) -> Results:
        """Read a file.

        Raises:
            Error: it holds no figures of this version.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if (data["format"], data["version"]) != (FORMAT, VERSION):
                raise ValueError
            results = Results(data["machine"], data["ceilings"])
            for one in data["figures"]:
                rows = [_row(row) for row in one["rows"]]
                results.add(Figures(one["problem"], one["circumstances"], rows, one["absent"]))
        except (OSError, ValueError, KeyError, TypeError) as failure:
            raise Error(
                f"{path} holds no figures of this version of the benchmarks; remove it or name "
                "another file with --out"
            ) from failure
        return results


def _plain(row: Row) -> dict[str, Any]:
    values = asdict(row)
    timing = {name: float(f"{value:.4g}") for name, value in values.pop("timing").items()}
    for name in ("error", "arithmetic_error"):
        if values[name] is not None:
            values[name] = float(f"{values[name]:.3g}")
    return {**values, **timing}


def _row(values: dict[str, Any]) -> Row:
    timing = Timing(**{one.name: values.pop(one.name) for one in fields(Timing)})
    return Row(**values, timing=timing)
