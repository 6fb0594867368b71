"""docs/torch_models.md and .json, from whatever result files are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.page import figure
from benchmarks.torch_models.listed import ROWS, Row

_HEADS = (
    "model",
    "package",
    "goes",
    "left in float",
    "error",
    "PyTorch's own",
    "compile, s",
    "smaller",
)
_INTRODUCTION = """\
# PyTorch models of other packages

Written by `python -m benchmarks.torch_models`; do not edit. Models of these architectures, small
where they can be made so, with random weights go the whole way: `quantize.compress` to 4 bits with
int8 activations, `torch.export`, `gq_tvm.build`, `gq_tvm.load`.

- **Goes**: yes, or the stage that fails and the sentence it fails with.
- **Left in float**: weights of those listed by `quantize.describe`.
- **Error**: relative L2 error of the artefact from the compressed model in PyTorch, the largest
  over all outputs, on inputs other than those of the export. Where a sum is rounded to int8 after
  it was added up in another order, a step of that grid may tip, here and in each layer behind.
- **PyTorch's own**: the same error of the compressed model in PyTorch, inputs moved by a millionth.
- **Smaller**: bytes of the float parameters over those of the artefact; for models as small as
  these that is mostly code.
"""


def read(results: Path) -> dict[Row, Any]:
    """What is told of each model that was measured."""
    paths = {row: results / f"{file_name(row)}.json" for row in ROWS}
    return {row: json.loads(path.read_text()) for row, path in paths.items() if path.exists()}


def file_name(row: Row) -> str:
    """The name of a model's result file."""
    return "".join(one if one.isalnum() else "_" for one in row.name)


def write(results: Path, folder: Path, circumstances: Mapping[str, Any]) -> None:
    """Write both files into a folder."""
    told = read(results)
    page.write(
        folder / "torch_models",
        _INTRODUCTION,
        _HEADS,
        (_line(row, one) for row, one in told.items()),
        [row.name for row in ROWS if row not in told],
        circumstances,
        {"models": {row.name: {"package": row.package, **one} for row, one in told.items()}},
    )


def _line(row: Row, one: Mapping[str, Any]) -> list[str]:
    goes = one.get("failed", "yes")
    if "failed" in one and one.get("exports"):
        goes += " (nor does PyTorch export the float model)"
    left = f"{one['left']} of {one['weights']}" if "left" in one else "-"
    return [
        row.name,
        row.package,
        goes,
        left,
        figure(one.get("error"), "{:.1e}"),
        figure(one.get("moved"), "{:.1e}"),
        figure(one.get("seconds"), "{:.0f}"),
        figure(one.get("ratio"), "{:.1f}"),
    ]
