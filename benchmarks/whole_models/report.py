"""docs/whole_models.md and .json, from whatever result files are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.whole_models.listed import MODELS
from benchmarks.whole_models.work import BITS

_MB = 1e6
_HEADS = (
    "model", "ours, ms", "ONNX Runtime / ours", "PyTorch / ours", "model, MB", "floats, MB",
    "error", "compile, s",
)  # fmt: skip
_INTRODUCTION = f"""\
# Whole models against ONNX Runtime

Written by `python -m benchmarks.whole_models`; do not edit.

Models of their published sizes with random weights, on which time does not hang, compressed by
`quantize.compress(model, {BITS})` without inputs: {BITS} bits, int8 activations. One thread, one
process, in turns; medians, hot. ONNX Runtime and PyTorch compute in fp32.

- **/ ours**: their time over ours; above 1 we are faster.
- **Error**: relative L2, of the artefact's first output from that of the same codebooks in PyTorch.
  Sums of floats in another order move a value over a step of int8 here and there, and what follows
  with it (see `benchmarks.torch_models`).
"""


def write(results: Path, folder: Path, circumstances: dict[str, Any]) -> None:
    """Write both files into a folder."""
    told = {
        entry.name: {
            "title": entry.title,
            **json.loads((results / f"{entry.name}.json").read_text(encoding="utf-8")),
        }
        for entry in MODELS
        if (results / f"{entry.name}.json").exists()
    }
    absent = [entry.title for entry in MODELS if entry.name not in told]
    page.write(
        folder / "whole_models",
        _INTRODUCTION,
        _HEADS,
        map(_row, told.values()),
        absent,
        circumstances,
        {"models": told},
    )


def _row(one: dict[str, Any]) -> list[str]:
    return [
        one["title"],
        f"{one['ours'] / 1000:.1f}",
        f"{one['onnxruntime'] / one['ours']:.2f}",
        f"{one['pytorch'] / one['ours']:.2f}",
        f"{one['bytes'] / _MB:.1f}",
        f"{one['float_bytes'] / _MB:.1f}",
        f"{one['error']:.1e}",
        f"{one['compile_seconds']:.0f}",
    ]
