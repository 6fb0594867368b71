"""A page of one table, and the figures behind it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.markdown import table
from gq_tvm import files


def write(
    path: Path,
    introduction: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    absent: Sequence[str],
    circumstances: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> None:
    """Write ``path`` with .md and with .json behind it.

    Args:
        path: Without an ending.
        introduction: What stands above the table.
        heads: Of its columns.
        rows: Its lines.
        absent: What has none, by name.
        circumstances: As ``benchmarks.machine`` tells them.
        figures: What the .json holds beside these and the machine.
    """
    lines = [introduction, table(heads, rows)]
    if absent:
        lines += ["", f"Not measured: {'; '.join(absent)}."]
    machine = describe()
    versions = ", ".join(f"{name} {one}" for name, one in circumstances["versions"].items())
    when = f"{circumstances['date']}, commit {circumstances['commit']}"
    lines += ["", f"{machine['cpu']}, {when}; {versions}."]
    files.write_text(path.with_suffix(".md"), "\n".join(lines) + "\n")
    plain = {"machine": machine, "circumstances": circumstances, **figures}
    files.write_text(path.with_suffix(".json"), json.dumps(plain, indent=1) + "\n")


def figure(value: float | None, form: str) -> str:
    """A number as a cell has it; a dash for what was not measured."""
    return "-" if value is None else form.format(value)
