"""docs/compression.md and .json, from whatever result files are there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.compression.cells import ACTIVATIONS, BITS, METHODS, OURS_ALLOCATED, OURS_INPUTS
from benchmarks.compression.goals import goals
from benchmarks.compression.models import MODELS, Folders
from benchmarks.compression.results import Entry, Results
from benchmarks.machine import describe
from benchmarks.markdown import table
from gq_tvm import files

_LISTED = 8  # of the parameters left in float


def write(folders: Folders, folder: Path, circumstances: dict[str, Any]) -> None:
    """Write both files into a folder."""
    results = Results(folders)
    lines = [_INTRODUCTION, *_goals(results)]
    for model in results.models:
        lines += _model(results, model)
    lines += [*_absent(results), *_compiled(results), *_made(results, circumstances)]
    files.write_text(folder / "compression.md", "\n".join(lines) + "\n")
    plain = json.dumps(_plain(results, circumstances), indent=1)
    files.write_text(folder / "compression.json", plain + "\n")


_INTRODUCTION = """\
# Compression after training

Written by `python -m benchmarks.compression`; do not edit. Networks that others trained are
compressed without further training: by `quantize.compress`, with and without calibration inputs,
and by other packages, each on the same weights of the same layers.

- **Loss**: power of the difference from the float network's outputs over the power of those, on
  inputs that calibrated nothing; the SQNR as a ratio, upside down.
- **Bits a weight**: bytes of indices, scales, zero points, tables and outliers, over the quantised
  weights. In a row of n bits an index has n.
- **Rivals** are simulated: their package rounds the weights, which are brought back to floats in
  the same network. With int8 activations each layer's inputs are rounded by row as our kernels
  round them. Blocks of ggml run on over the ends of rows. NNCF is given one layer at a time
  and the inputs it meets in the float network, so its AWQ, which moves scales between layers, has
  no part.
- **At equal bytes**: a rival's loss at our bits a weight is interpolated between two of its own
  forms (logarithm of the loss), or that of a form of fewer bits where that is better.
- **Bits allocated**: `quantize.allocate` chooses the bits of each weight from what
  `quantize.sensitivity` says, within n + 0.55 bits a weight on average; at 4, 3 and 2 bits 32, 64
  and 128 inputs share a scale.
- Our own rows are what `compress` gives, with the codebook operators in PyTorch; a few are
  compiled too (see the end).
"""


def _goals(results: Results) -> list[str]:
    said = {True: "met", False: "**missed**", None: "not measured"}
    rows = [(one.title, one.figures, said[one.met]) for one in goals(results)]
    return ["\n## Goals\n", table(("", "", ""), rows)]


def _model(results: Results, model: str) -> list[str]:
    facts, kind = results.facts[model], MODELS[model]
    weights, left = facts["weights"], facts["left"]
    more = ", ..." if len(left) > _LISTED else ""
    matrices = sorted(left, key=lambda name: -left[name])[:_LISTED]
    lines = [
        f"\n## {kind.title}\n",
        f"{len(weights)} weights of {sum(weights.values()):,} numbers are quantised; "
        f"{sum(left.values()):,} numbers in {len(left)} parameters stay in float: "
        f"{', '.join(matrices)}{more}. Measured: "
        + "; ".join(f"{name}, {what}" for name, what in kind.measured.items())
        + ". The float network has "
        + ", ".join(f"{name} {value:.4g}" for name, value in facts["measures"].items())
        + ".",
    ]
    for activation in ACTIVATIONS:
        rows = [
            _row(entry)
            for bits in BITS
            for method in METHODS
            for entry in results.find(model, method, bits, activation)
        ]
        if rows:
            heads = (
                "bits",
                "",
                "bits a weight",
                "loss",
                *kind.measured,
            )
            lines += [f"\nActivations in {activation}:\n", table(heads, rows)]
    return lines


def _row(entry: Entry) -> tuple[str, ...]:
    cell, method = entry.cell, METHODS[entry.cell.method]
    title = method.title if cell.variant == str(cell.bits) else f"{method.title}: {cell.variant}"
    title = f"**{title}**" if cell.method in (OURS_INPUTS, OURS_ALLOCATED) else title
    measures = (f"{entry.measures[name]:.4f}" for name in MODELS[cell.model].measured)
    return (str(cell.bits), title, f"{entry.rate:.2f}", f"{entry.loss:.3g}", *measures)


def _absent(results: Results) -> list[str]:
    if not results.absent:
        return []
    rows = list(results.absent.items())
    return ["\n## Left out\n", table(("", "why"), rows)]


def _compiled(results: Results) -> list[str]:
    made = [one for one in results.entries.values() if one.compiled is not None]
    if not made:
        return []
    rows = [
        (MODELS[one.cell.model].title, METHODS[one.cell.method].title, one.cell.variant,
         one.cell.activation, f"{one.compiled:.2g}")
        for one in made
    ]  # fmt: skip
    heads = ("", "", "bits", "activations", "largest difference")
    return ["\n## Compiled artefacts against PyTorch\n", table(heads, rows)]


def _made(results: Results, circumstances: dict[str, Any]) -> list[str]:
    machine, versions = describe(), circumstances["versions"]
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    commits = sorted({entry.commit for entry in results.entries.values()})
    return [
        "\n## Made\n",
        f"{len(results.entries)} cells at {', '.join(commits)} on {machine['cpu']}; {named}.",
    ]


def _plain(results: Results, circumstances: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": describe(),
        "circumstances": circumstances,
        "networks": results.facts,
        "cells": [asdict(entry) for entry in results.entries.values()],
        "goals": [asdict(goal) for goal in goals(results)],
    }
