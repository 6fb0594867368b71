"""The roofline plot: what a candidate computes a second over what it computes a weight byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import ceilings
from benchmarks.goals import MAIN_SHAPE, OURS, automatic
from benchmarks.results import Figures, Results, Row

_ROWS = (1, 4, 64)
_COLOURS = {1: "tab:blue", 4: "tab:orange", 64: "tab:green"}
_BITS = (8, 4, 2, 1)


def draw(results: Results, path: Path) -> bool:
    """Draw one thread's figures of the main shape as SVG.

    Returns:
        False where the ceilings or the figures are not there.
    """
    roofs = results.ceilings.get("1")
    outputs, inputs = MAIN_SHAPE
    found = [
        figures
        for figures in results.find("layer", 1)
        if (figures.problem["outputs"], figures.problem["inputs"]) == MAIN_SHAPE
        and figures.problem["rows"] in _ROWS
    ]
    if not roofs or not found:
        return False
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "gq-tvm"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6))
    _roofs(axes, roofs)
    for figures in found:
        _points(axes, figures)
    axes.set(
        xscale="log", yscale="log", xlabel="operations a byte of weights",
        ylabel="G operations a second", xlim=(0.4, 1500),
        title=f"{outputs}x{inputs}, one thread: {results.machine['cpu']}",
    )  # fmt: skip
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    return True


def intensity(figures: Figures, row: Row) -> float:
    """Multiplications and additions a byte of weights."""
    problem = figures.problem
    operations = 2 * problem["outputs"] * problem["inputs"] * problem["rows"]
    return operations / row.weight_bytes


def _roofs(axes: Any, roofs: dict[str, Any]) -> None:
    top = max(
        rate
        for name in (ceilings.FP32, ceilings.INT8, ceilings.LOOKUP_DOT)
        if (rate := ceilings.kind(roofs["operations"], name))
    )
    for level, rate in roofs["bytes"].items():
        axes.plot([0.1, top / rate], [0.1 * rate, top], color="grey", linewidth=0.8)
        axes.annotate(f"{level} {rate:g} GB/s", (0.45, 0.47 * rate), fontsize=7, color="grey")
    for name in (ceilings.FP32, ceilings.INT8, ceilings.LOOKUP_DOT):
        if rate := ceilings.kind(roofs["operations"], name):
            axes.axhline(rate, color="black", linewidth=0.8, linestyle="--")
            axes.annotate(f"{name} {rate:g}", (1450, rate * 1.02), fontsize=7, ha="right")


def _points(axes: Any, figures: Figures) -> None:
    rows = figures.problem["rows"]
    for bits in _BITS:
        peers = [one for one in figures.rows if one.system != OURS and one.bits == bits]
        best = min(peers, key=lambda one: one.timing.hot_min, default=None)
        for row, marker in ((automatic(figures, bits), "o"), (best, "^")):
            if row is None:
                continue
            x = intensity(figures, row)
            operations = x * row.weight_bytes
            for time, face in (
                (row.timing.hot_min, _COLOURS[rows]), (row.timing.cold_median, "none"),
            ):  # fmt: skip
                axes.plot(x, operations / time / 1e3, marker, color=_COLOURS[rows],
                          markerfacecolor=face, markersize=6)  # fmt: skip
            hot = operations / row.timing.hot_min / 1e3
            axes.annotate(f"{bits}", (x, hot), fontsize=7, xytext=(4, 3),
                          textcoords="offset points")  # fmt: skip
    for marker, who in (("o", "gq-tvm"), ("^", "best peer of the same bits")):
        axes.plot([], [], marker, color=_COLOURS[rows], linestyle="none",
                  label=f"{who}, {rows} row{'s' * (rows > 1)} (hollow: cold)")  # fmt: skip
