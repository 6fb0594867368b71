"""What each weight of a model loses at each number of bits: the figures, their table and file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gq_tvm import files, reading, records
from gq_tvm.columns import columns
from gq_tvm.errors import Error

FLOAT = 32  # bits of a weight that is left in float
_FORMAT = "gq-tvm sensitivity 1"


def decibels(lost: float) -> float:
    """Signal to quantisation noise in dB, of a share of noise."""
    return -10 * math.log10(lost) if lost > 0 else math.inf


@dataclass(frozen=True)
class OneWeight:
    """What one weight loses and takes.

    Attributes:
        shape: of the weight.
        layer: what is left in float together with it: a layer of an LSTM or GRU, else itself.
        bytes: by bits, all counted (``ops.weight.packed_bytes``); 32 is float.
        lost: by bits, the share of noise in the model's outputs, noise power over signal power,
            where this weight alone is quantised; infinite where they are NaN.
    """

    shape: tuple[int, ...]
    layer: str
    bytes: dict[int, int]
    lost: dict[int, float]

    def sqnr(self, bits: int) -> float:
        """Signal to quantisation noise of the model's outputs in dB."""
        return decibels(self.lost[bits])

    @property
    def mean(self) -> float:
        """The mean SQNR over the bits measured, in dB: what weights are ranked by."""
        return sum(min(self.sqnr(bits), 300.0) for bits in self.lost) / len(self.lost)


@dataclass(frozen=True)
class Sensitivity:
    """What each weight of a model loses when it alone is quantised; ``str`` gives a table.

    Attributes:
        weights: by name, those that lose most first.
        fixed: bytes of all else: biases, norms, buffers, and weights that stay in float.
        activation: what codebooks were made for, as given to ``sensitivity``.
        unmeasured: names of weights that no input reaches, or an interrupt left out; they count
            as float.
        interrupted: whether there was one.
    """

    weights: dict[str, OneWeight]
    fixed: int
    activation: str | Mapping[str, str] = "int8"
    unmeasured: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def choices(self) -> list[int]:
        """The numbers of bits measured, rising."""
        return sorted({bits for one in self.weights.values() for bits in one.lost})

    def __str__(self) -> str:
        choices = self.choices
        rows = [["weight", "shape", *(f"{n} bits" for n in choices), "bytes", "in float"]]
        for name, one in self.weights.items():
            values = (f"{one.sqnr(n):.1f}" if n in one.lost else "" for n in choices)
            sizes = [one.bytes[n] for n in sorted(one.lost)]
            span = f"{sizes[0]}-{sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
            rows.append([name, "x".join(map(str, one.shape)), *values, span, str(one.bytes[FLOAT])])
        lines = [
            "SQNR of the model's outputs in dB where one weight alone is quantised:",
            columns(rows, right=range(1, len(rows[0]))),
            f"all else: {self.fixed} bytes",
        ]
        if self.unmeasured:
            why = "interrupted: " * self.interrupted
            lines.append(
                f"{why}{len(self.unmeasured)} weights were not measured and count as float"
            )
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same as JSON, which ``from_json`` reads."""
        weights = {
            name: {
                "shape": one.shape,
                "layer": one.layer,
                "bytes": one.bytes,
                # JSON has no infinity
                "lost": {n: one.lost[n] if math.isfinite(one.lost[n]) else None for n in one.lost},
            }
            for name, one in self.weights.items()
        }
        whole = {
            "format": _FORMAT,
            "activation": self.activation,
            "fixed": self.fixed,
            "unmeasured": self.unmeasured,
            "interrupted": self.interrupted,
            "weights": weights,
        }
        return json.dumps(whole, indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> Sensitivity:
        """Read what ``to_json`` wrote.

        Raises:
            Error: it is something else.
        """
        try:
            whole = records.read(_Whole, records.loads(text))
            if whole.format != _FORMAT:
                raise records.Wrong(f"is not {_FORMAT!r}", "format")
            return Sensitivity(
                {name: one.read(name) for name, one in whole.weights.items()},
                whole.fixed,
                whole.activation,
                whole.unmeasured,
                whole.interrupted,
            )
        except records.Wrong as wrong:
            raise Error(f"it is no sensitivity ({wrong}); measure again") from None

    @staticmethod
    def load(path: str | Path) -> Sensitivity:
        """Read a file that ``to_json`` filled; raises Error if it is something else."""
        try:
            return Sensitivity.from_json(reading.text(path))
        except Error as refusal:
            said = str(refusal)
            raise Error(said if said.startswith(str(path)) else f"{path}: {said}") from None

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all; raises Error where it cannot be."""
        files.write_text(path, self.to_json())

    def picture(self, path: str | Path) -> None:
        """Draw the figures into an ``.svg``, ``.png`` or ``.pdf``; needs gq-tvm[picture].

        Raises:
            Error: matplotlib is not installed, or the file cannot be written.
        """
        from gq_tvm.quantize.allocation.picture import draw

        draw(self, Path(path))


@dataclass(frozen=True)
class _Weight:
    shape: list[int]
    layer: str
    bytes: dict[str, int]
    lost: dict[str, float | int | None]

    def read(self, name: str) -> OneWeight:
        key = f"weights.{name}"
        bytes_by = _by_bits(self.bytes, f"{key}.bytes")
        lost_by = _by_bits(self.lost, f"{key}.lost")
        if not lost_by or not {*lost_by, FLOAT} <= bytes_by.keys() or FLOAT in lost_by:
            raise records.Wrong("has not the bits of its bytes", f"{key}.lost")
        lost = {bits: math.inf if one is None else float(one) for bits, one in lost_by.items()}
        if any(one < 0 for one in [*lost.values(), *bytes_by.values()]):
            raise records.Wrong("holds a number below 0", key)
        return OneWeight(tuple(self.shape), self.layer, bytes_by, lost)


@dataclass(frozen=True)
class _Whole:
    format: str
    activation: str | dict[str, str]
    fixed: int
    unmeasured: list[str]
    interrupted: bool
    weights: dict[str, _Weight]


def _by_bits(values: Mapping[str, Any], key: str) -> dict[int, Any]:
    for bits in values:
        if bits not in {*map(str, range(1, 9)), str(FLOAT)}:
            raise records.Wrong(f"has {bits!r}, which are no bits", key)
    return {int(bits): value for bits, value in values.items()}
