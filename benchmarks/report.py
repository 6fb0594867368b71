"""docs/performance.md: the figures as tables, written anew from the file of figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import ceilings, goals, roofline
from benchmarks.goals import OURS, Compared, Reached, Side
from benchmarks.markdown import table
from benchmarks.results import Figures, Results, Row
from gq_tvm import files

_BITS = (8, 7, 6, 5, 4, 3, 2, 1)
_PLOT = "roofline.svg"
_MARKS = {True: "met", False: "**missed**", None: "-"}


def write_report(results: Results, path: Path) -> None:
    """Write the page, and the plot beside it where there is one to draw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = roofline.draw(results, path.with_name(_PLOT))
    files.write_text(path, render(results, _PLOT if drawn else None))


def render(results: Results, plot: str | None = None) -> str:
    """The page in Markdown."""
    parts = [
        _head(results),
        _goal_section(results),
        _ceiling_section(results),
        _plot_section(plot),
        _layer_section(results),
        _model_section(results),
        _full_section(results),
        _absent_section(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Results) -> str:
    machine = results.machine
    found = list(results.figures.values())
    dates = sorted(one.circumstances["date"] for one in found)
    when = f"{dates[0]} to {dates[-1]}" if dates else "nothing measured yet"
    commits = sorted({one.circumstances["commit"] for one in found})
    loads = [one.circumstances["load"][0] for one in found]
    last = max(found, key=lambda one: one.circumstances["date"], default=None)
    versions = last.circumstances["versions"] if last else {}
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    clock = results.ceilings.get("1", {}).get("clock")
    facts = [
        ("CPU", f"{machine['cpu']}, {machine['architecture']}, {machine['cores']} cores used"),
        ("clock", f"{clock} GHz, measured" if clock else "not measured"),
        ("caches of a core", caches),
        ("vector features", " ".join(machine["vector_features"])),
        ("governor", machine["governor"]),
        ("virtual machine", "yes: neighbours are not visible" if machine["virtual"] else "no"),
        ("measured", when),
        ("load average meanwhile", f"{min(loads)} to {max(loads)}" if loads else "-"),
        ("commit", ", ".join(commits) or "-"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
    ]
    return f"""# Performance

Written by `make benchmark` from `performance.json`; not to be edited. All candidates of a problem
run in one process and take turns. *Hot* is the minimum over calls that follow one another, *cold*
the median of single calls after all caches were filled with other data. A bound call reads and
writes the same arrays each time; all systems are bound in their own way. Times are microseconds.

{table(["", ""], facts)}"""


def _goal_section(results: Results) -> str:
    main = "x".join(map(str, goals.MAIN_SHAPE))
    compared = [one for goal in goals.RATIOS for one in goals.compare(results, goal)]
    shown = [c for c in compared if c.goal.model or c.problem.startswith(f"{main},")]
    rest = [c for c in compared if c not in shown]
    lines = [
        [
            one.goal.name, f"`{one.row.detail.partition(':')[0]}`",
            *_side(one.hot), *_side(one.cold), _bounds(results, one),
        ]
        for one in shown
    ]  # fmt: skip
    heads = ["goal", "kernel"]
    for kind in ("hot", "cold"):
        heads += [f"{kind}: ours / best peer", "ratio", "at most", ""]
    text = f"## Goals, one thread, {main} and whole models\n\n"
    text += "The last column has the least time that the machine's ceilings allow our kernel: the "
    text += "weights' bytes from the cache that holds them, and a look-up with a dot product (or a "
    text += "dot product alone) for every weight.\n\n"
    text += table([*heads, "ceilings: bytes, look-up + dot, dot"], lines)
    text += "\n\n" + table(["other goals", "reached", ""], map(_reached, goals.others(results)))
    if rest:
        text += "\n\nThe same ratios on the other shapes:\n\n"
        text += table(
            ["layer", "goal", *heads[2:]],
            [[one.problem, one.goal.name, *_side(one.hot), *_side(one.cold)] for one in rest],
        )
    return text


def _side(side: Side) -> list[str]:
    limit = "-" if side.limit is None else f"{side.limit:.2f}"
    against = f"{_us(side.ours)} / {_us(side.peer)} ({side.against})"
    return [against, f"{side.ratio:.2f}", limit, _MARKS[side.met]]


def _reached(one: Reached) -> list[str]:
    return [one.name, one.value, _MARKS[one.met]]


def _bounds(results: Results, one: Compared) -> str:
    """Least times by the ceilings for a layer of ours, e.g. ``26 (L3), 27, 18``."""
    figures, roofs = results.get(one.problem, 1), results.ceilings.get("1")
    if figures is None or not roofs or figures.problem["kind"] != "layer":
        return ""
    problem = figures.problem
    operations = 2 * problem["outputs"] * problem["inputs"] * problem["rows"]
    level = holding(results, one.row.weight_bytes)
    times = [f"{_us(one.row.weight_bytes / roofs['bytes'][level] / 1e3)} ({level})"]
    for kind in (ceilings.LOOKUP_DOT, ceilings.INT8):
        rate = ceilings.kind(roofs["operations"], kind)
        times.append(_us(operations / rate / 1e3) if rate else "-")
    return ", ".join(times)


def holding(results: Results, size: int) -> str:
    """The first level of memory that holds so many bytes."""
    for level in ("L1", "L2", "L3"):
        text = results.machine["caches"].get(level) or results.machine["caches"].get(f"{level}d")
        if text and size <= int(text.rstrip("K")) * 1024:
            return level
    return "DRAM"


def _ceiling_section(results: Results) -> str:
    if not results.ceilings:
        return ""
    threads = sorted(results.ceilings)
    names: dict[str, list[str]] = {}
    for group, unit in (("bytes", "GB/s"), ("operations", "G/s")):
        for name in results.ceilings[threads[0]][group]:
            label = f"reading from {name}" if group == "bytes" else name
            names[f"{label}, {unit}"] = [
                str(results.ceilings[count][group].get(name, "-")) for count in threads
            ]
    heads = ["ceiling", *(f"{count} thread{'s' * (count != '1')}" for count in threads)]
    return "## Ceilings\n\n" + table(heads, ([name, *values] for name, values in names.items()))


def _plot_section(plot: str | None) -> str:
    return f"## Roofline\n\n![Roofline of one thread]({plot})" if plot else ""


def _layer_section(results: Results) -> str:
    parts = []
    for threads in (1, 2):
        lines = list(_layer_lines(results, threads))
        if lines:
            heads = ["layer", "", *(f"{bits} bit" for bits in _BITS), "fp32"]
            parts.append(
                f"## Layers, {threads} thread{'s' * (threads > 1)}\n\nHot / cold. A peer's row "
                "has the best peer of the bits, hot and cold apart.\n\n" + table(heads, lines)
            )
    return "\n\n".join(parts)


def _layer_lines(results: Results, threads: int) -> Iterator[list[str]]:
    for figures in results.find("layer", threads):
        own = [goals.automatic(figures, bits) for bits in _BITS]
        dense = [row for row in figures.rows if row.name == "8 bit x fp32 dense_f32"]
        yield [figures.problem["name"], "gq-tvm", *(_best([r] if r else []) for r in own),
               _best(dense)]  # fmt: skip
        peers = [row for row in figures.rows if row.system != OURS]
        yield ["", "best peer", *(_best([r for r in peers if r.bits == b]) for b in (*_BITS, 32))]


def _best(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    hot = min(row.timing.hot_min for row in rows)
    return f"{_us(hot)} / {_us(min(row.timing.cold_median for row in rows))}"


def _model_section(results: Results) -> str:
    parts = []
    for threads in (1, 2):
        for figures in results.find("model", threads):
            name, count = figures.problem["name"], f"{threads} thread{'s' * (threads > 1)}"
            parts.append(f"### {name}, {count}\n\n{_rows(figures)}")
    return "\n\n".join(["## Whole models", *parts]) if parts else ""


def _full_section(results: Results) -> str:
    """Every row of the main shape; those of the others are in the file of figures."""
    outputs, inputs = goals.MAIN_SHAPE
    parts = [
        f"### {figures.problem['name']}\n\n{_rows(figures)}"
        for figures in results.find("layer", 1)
        if (figures.problem["outputs"], figures.problem["inputs"]) == (outputs, inputs)
    ]
    title = f"## Every candidate on {outputs}x{inputs}, one thread"
    return "\n\n".join([title, *parts]) if parts else ""


def _rows(figures: Figures) -> str:
    ordered = sorted(figures.rows, key=lambda row: row.timing.hot_min)
    lines = [
        [
            row.label, f"{row.bits:g}", row.activation, _levels(row),
            f"{row.weight_bytes / 1e3:,.0f}", _us(row.timing.hot_min), _us(row.timing.hot_median),
            _us(row.timing.cold_median), _error(row.error), _error(row.arithmetic_error),
            row.detail,
        ]
        for row in ordered
    ]  # fmt: skip
    heads = [
        "candidate", "bits", "activations", "codebook", "weights, kB", "hot", "hot median", "cold",
        "error", "arithmetic error", "kernel",
    ]  # fmt: skip
    note = (
        "Error: relative L2 distance of y from that of the float weights; arithmetic error: from "
        "the exact product of the candidate's own weights."
    )
    return f"{note}\n\n{table(heads, lines)}"


def _absent_section(results: Results) -> str:
    reasons: dict[tuple[str, str], int] = {}
    for figures in results.figures.values():
        for label, why in figures.absent.items():
            reasons[label, why] = reasons.get((label, why), 0) + 1
    if not reasons:
        return ""
    lines = ([label, why, str(count)] for (label, why), count in reasons.items())
    return "## Not measured\n\n" + table(["candidate", "why", "problems"], lines)


def _levels(row: Row) -> str:
    """Whose codebook the weights are in, or that their levels are uniform."""
    return row.codebook or ("uniform" if row.bits < 16 else "-")


def _us(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
