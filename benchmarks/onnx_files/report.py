"""docs/onnx_files.md and .json, from whatever result files are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.onnx_files.listed import Entry
from benchmarks.page import figure

_MB = 1e6
_HEADS = (
    "file", "package", "nodes", "imports", "program's error", "compiled error", "compile, s",
    "ONNX Runtime / ours", "peak of the import", "over the file",
)  # fmt: skip
_INTRODUCTION = """\
# ONNX files that packages ship

Written by `python -m benchmarks.onnx_files`; do not edit.

- **Imports**: yes, or the sentence in which the file is refused.
- **Errors** are relative L2 errors from ONNX Runtime at graph level BASIC: of the imported program
  in PyTorch, at two sizes where sizes are free, and of the compiled artefact; 0 where no number is
  off by more than 1e-6. A dash is what was not measured.
  Of operators on integers ONNX Runtime is given the graph of `gq_tvm/onnx_import/exact.py`.
- **ONNX Runtime / ours**: its time over ours, medians of one process, one thread, all of its
  optimisations; above 1 we are faster. Weights are in float here, nothing is compressed.
- **Peak** is what the import holds at most above a process that has imported a tiny file before,
  without the comparison; for small files that is mostly what PyTorch's export takes.
"""


def write(
    entries: Sequence[Entry], results: Path, folder: Path, circumstances: dict[str, Any]
) -> None:
    """Write both files into a folder."""
    told = {
        entry.name: {
            "file": entry.path.name,
            "package": entry.package,
            **json.loads((results / f"{entry.name}.json").read_text()),
        }
        for entry in entries
        if (results / f"{entry.name}.json").exists()
    }
    absent = [entry.name for entry in entries if entry.name not in told]
    page.write(
        folder / "onnx_files",
        _INTRODUCTION,
        _HEADS,
        map(_row, told.values()),
        absent,
        circumstances,
        {"files": told},
    )


def _row(one: dict[str, Any]) -> list[str]:
    peak = one.get("import_peak")
    return [
        one["file"],
        one["package"],
        str(one["nodes"]),
        one.get("refused", "yes"),
        figure(one.get("error"), "{:.1e}"),
        figure(one.get("compiled_error"), "{:.1e}"),
        figure(one.get("compile_seconds"), "{:.1f}"),
        figure(one["theirs"] / one["ours"] if "ours" in one else None, "{:.2f}"),
        figure(peak and peak / _MB, "{:.0f} MB"),
        figure(peak and peak / one["bytes"], "{:.1f}"),
    ]
