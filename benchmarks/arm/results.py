"""Figures of ARM cores in a file: ``docs/arm.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arm.candidate import INPUTS, OUTPUTS
from gq_tvm import files
from gq_tvm.errors import Error

FORMAT, VERSION = "gq-tvm modelled ARM figures", 1


@dataclass(frozen=True)
class Row:
    """A candidate's call on a core.

    Attributes:
        core: Name of the target.
        rows: Rows of the activations.
        system: Whose kernel.
        name: The kernel.
        bits: Bits a weight.
        activation: What a row of x becomes before it meets the weights.
        codebook: ``"any"``, or ``"uniform"`` for equally spaced levels.
        detail: Its schedule.
        chosen: Whether a user of gq-tvm gets it unasked.
        weight_bytes: What it reads of the weights.
        instructions: Of a call, counted under emulation.
        cycles: Of a call whose data are all in the first-level cache, modelled.
        streaming: Of a call whose weights come from where they lie, modelled.
    """

    core: str
    rows: int
    system: str
    name: str
    bits: int
    activation: str
    codebook: str
    detail: str
    chosen: bool
    weight_bytes: int
    instructions: int
    cycles: float
    streaming: float

    def share(self, value: float) -> float:
        """A figure of the call, for one weight and one row."""
        return value / (OUTPUTS * INPUTS * self.rows)


@dataclass
class Results:
    """A file of figures.

    Attributes:
        facts: When, with which versions and models: what the page says on top.
        cores: By name, where the weights of each bit-width lie and what is assumed of the core.
        rows: The figures.
        absent: What could not be had -> why.
    """

    facts: dict[str, str]
    cores: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def find(self, core: str, rows: int) -> Iterator[Row]:
        """The figures of a core at a number of rows."""
        return (one for one in self.rows if (one.core, one.rows) == (core, rows))

    def save(self, path: Path) -> None:
        """Write the file: whole, or as it was; one row a line."""
        head = {"format": FORMAT, "version": VERSION, "facts": self.facts, "cores": self.cores}
        lines = [f'"{name}": {json.dumps(value)},' for name, value in head.items()]
        lines += [f'"absent": {json.dumps(self.absent)},', '"rows": [']
        rows = ",\n".join(json.dumps(_plain(row)) for row in self.rows)
        text = "{\n" + "\n".join(lines) + "\n" + rows + "\n]}\n"
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
            rows = [Row(**one) for one in data["rows"]]
            return Results(data["facts"], data["cores"], rows, data["absent"])
        except (OSError, ValueError, KeyError, TypeError) as failure:
            raise Error(
                f"{path} holds no modelled figures of this version: leave --report-only out, or "
                "name another file with --out"
            ) from failure


def _plain(row: Row) -> dict[str, Any]:
    values = asdict(row)
    for name in ("cycles", "streaming"):
        values[name] = round(values[name], 1)
    return values
