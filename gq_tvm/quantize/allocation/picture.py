"""A picture of a sensitivity: a line for each weight, a mark for each number of bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gq_tvm import files
from gq_tvm.errors import Error, missing_package

if TYPE_CHECKING:
    from gq_tvm.quantize.allocation.sensitivity import Sensitivity

_FORMATS = (".svg", ".png", ".pdf")
_INCHES = 0.22  # of a line


def check_picture(path: Path) -> None:
    """Refuse what no picture can be drawn to; raises Error."""
    if path.suffix.lower() not in _FORMATS:
        raise Error(f"{path}: a picture ends in {', '.join(_FORMATS)}; choose one of these")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as failure:
        raise Error(missing_package(failure.name)) from None


def draw(sensitivity: Sensitivity, path: Path) -> None:
    """Draw it; see ``Sensitivity.picture``."""
    check_picture(path)
    import matplotlib
    from matplotlib.figure import Figure

    names, choices = list(sensitivity.weights), sensitivity.choices
    colours = matplotlib.colormaps["viridis"].resampled(max(2, len(choices)))
    figure = Figure(figsize=(9, 1.2 + _INCHES * len(names)))
    axes = figure.subplots()
    for row, one in enumerate(sensitivity.weights.values()):
        shown = [one.sqnr(bits) for bits in one.lost if math.isfinite(one.sqnr(bits))]
        if shown:
            axes.plot([min(shown), max(shown)], [row, row], color="0.85", zorder=1)
    for number, bits in enumerate(choices):
        points = [
            (one.sqnr(bits), row)
            for row, one in enumerate(sensitivity.weights.values())
            if bits in one.lost and math.isfinite(one.sqnr(bits))
        ]
        across, down = zip(*points, strict=True) if points else ((), ())
        axes.scatter(across, down, s=24, color=colours(number), label=f"{bits} bits", zorder=2)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("SQNR of the model's outputs in dB, this weight alone quantised")
    axes.grid(True, axis="x", alpha=0.3)
    axes.legend(fontsize=7, loc="best")
    ending = path.suffix.lower().removeprefix(".")
    # The same figures give the same file.
    settings: Any = {"svg.hashsalt": "gq-tvm", "svg.fonttype": "none"}
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
    with files.whole(path) as temporary, matplotlib.rc_context(settings):
        figure.savefig(temporary, format=ending, metadata=undated, bbox_inches="tight")
