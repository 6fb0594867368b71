"""The result files, and what is computed from several of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.compression import work
from benchmarks.compression.cells import METHODS, RIVALS, Cell, cells
from benchmarks.compression.models import MODELS, Folders


@dataclass(frozen=True)
class Entry:
    """One cell that was measured.

    Attributes:
        rate: Bits a weight over the quantised layers, everything counted.
        loss: Noise over signal of the network's outputs.
        measures: See ``Model.measures``.
        compiled: The largest difference of the artefact's outputs from PyTorch's, if it was made.
    """

    cell: Cell
    rate: float
    loss: float
    measures: dict[str, Any]
    compiled: float | None
    commit: str


@dataclass(frozen=True)
class Comparison:
    """A loss over that of the best rival of the same bits a weight."""

    ratio: float
    rival: str
    loss: float


class Results:
    """All result files of some folders."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.models = tuple(name for name in MODELS if work.facts_file(folders, name).exists())
        self.facts = {
            name: json.loads(work.facts_file(folders, name).read_text()) for name in self.models
        }
        self.absent: dict[str, str] = {}
        self.entries: dict[Cell, Entry] = dict(self._read())

    def _read(self) -> Iterator[tuple[Cell, Entry]]:
        for cell in cells(self.models):
            path = work.result_file(self.folders, cell)
            if not path.exists():
                continue
            kept = json.loads(path.read_text())
            if "absent" in kept:
                self.absent[f"{METHODS[cell.method].title}, {cell.variant}"] = kept["absent"]
                continue
            count = sum(self.facts[cell.model]["weights"].values())
            rate = 8 * sum(kept["bytes"].values()) / count
            commit = kept["circumstances"]["commit"]
            yield (
                cell,
                Entry(cell, rate, kept["loss"], kept["measures"], kept.get("compiled"), commit),
            )

    def find(self, model: str, method: str, bits: int, activation: str) -> list[Entry]:
        """The variants of a method with so many bits."""
        return [
            entry
            for cell, entry in self.entries.items()
            if (cell.model, cell.method, cell.bits, cell.activation)
            == (model, method, bits, activation)
        ]

    def curve(self, model: str, method: str, activation: str) -> list[Entry]:
        """All variants of a method, from few bits a weight to many."""
        wanted = (model, method, activation)
        found = [
            entry
            for cell, entry in self.entries.items()
            if (cell.model, cell.method, cell.activation) == wanted
        ]
        return sorted(found, key=lambda entry: entry.rate)

    def against_rivals(self, entry: Entry) -> Comparison | None:
        """The best of all rivals at the entry's bits a weight, see `loss_at`."""
        best: tuple[float, str] | None = None
        for method in RIVALS:
            curve = self.curve(entry.cell.model, method, entry.cell.activation)
            loss = loss_at(entry.rate, [(one.rate, one.loss) for one in curve])
            if loss is not None and (best is None or loss < best[0]):
                best = loss, METHODS[method].title
        return None if best is None else Comparison(entry.loss / best[0], best[1], best[0])


def loss_at(rate: float, curve: list[tuple[float, float]]) -> float | None:
    """What a method loses at so many bits a weight, from its (rate, loss), rising in rate.

    Between two of its forms the logarithm of the loss is interpolated, and beyond none: a form of
    fewer bits counts as it is, where it is better. None: all its forms take more.
    """
    below = [loss for one, loss in curve if one <= rate]
    if not below:
        return None
    best = min(below)
    for (low, worse), (high, better) in pairwise(curve):
        if low <= rate < high and worse > 0 and better > 0:
            share = (rate - low) / (high - low)
            best = min(best, float(np.exp((1 - share) * np.log(worse) + share * np.log(better))))
    return best


def geometric_mean(values: list[float]) -> float:
    """Of positive values."""
    return float(np.exp(np.mean(np.log(values))))
