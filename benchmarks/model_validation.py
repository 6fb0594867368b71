"""Whether modelled times rank kernels as measured ones do, on an x86 machine that has both.

    python -m benchmarks.model_validation [--schedules N] [--rounds N]

Kernels of the target x86-64-v3 run under QEMU and on this machine; the model is given the machine's
core. What is compared are ranks: of the schedules of a product over all families and baselines, and
of all together, each time divided by the mean of its product. Writes ``docs/model_validation.json``
and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import circumstances, describe
from gq_tvm import files, targets
from gq_tvm.command import command
from gq_tvm.errors import Error
from gq_tvm.modelled import times, tools
from gq_tvm.schedules import Product, Schedule, families_for
from gq_tvm.targets import Target, native
from gq_tvm.tuning.bench import Bench
from gq_tvm.tuning.modelled_bench import ModelledBench
from gq_tvm.tuning.task import Task

TARGET = "x86-64-v3"
PRODUCTS = (
    *(Product(1024, 1024, bits, "int8", 1) for bits in (1, 2, 4, 8)),
    *(Product(4096, 1024, bits, "int8", 1) for bits in (2, 4)),
    *(Product(1024, 256, bits, "int8", 4) for bits in (1, 4)),
    *(Product(1024, 256, bits, "int8", 16) for bits in (2, 4, 8)),
    Product(512, 512, 4, "fp32", 4),
)
_CORES = {"AMD": "x86-64-v4", "Intel(R)": "x86-64-v3"}  # whose targets describe them
_FOLDER = Path(__file__).parents[1] / "docs"


def spearman(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """The rank correlation of two samples; values that are equal share the mean of their ranks."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: npt.ArrayLike) -> np.ndarray:
    _, inverse, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def target_of_this_machine() -> Target:
    """`TARGET` with this machine's core. Raises `Error` if that is unknown or cannot run it."""
    target = targets.get(TARGET)
    if not target.features <= native.features():
        raise Error(f"this machine cannot run {TARGET}: validate the model on an x86 with AVX2")
    vendor = native.name().split()[0]
    if vendor not in _CORES:
        raise Error(f"nothing is known of the cores of {native.name()}")
    return replace(target, core=targets.get(_CORES[vendor]).core)


def kernels(product: Product, most: int) -> list[tuple[Task, Schedule]]:
    """Kernels of a product by every family, the default of each first: `most` in all."""
    able = families_for(targets.get(TARGET), product)
    able = [one for one in able if one.approximate or one.exact(product)]
    tasks = [Task(TARGET, one.name, product) for one in able]
    first = [(task, task.default) for task in tasks]
    rest = [(task, one) for task in tasks for one in task.space[1:]]
    count = min(len(rest), max(0, most - len(first)))
    return [*first, *random.Random(product.sizes).sample(rest, count)]


def compare(product: Product, most: int, rounds: int, target: Target) -> dict[str, Any]:
    """Model and measure kernels of a product."""
    rows: list[dict[str, Any]] = []
    wanted = kernels(product, most)
    models = ModelledBench(target)
    for task, schedule in wanted:
        rows.append({"family": task.family, "schedule": str(schedule)})
        rows[-1]["modelled"] = vars(models.time(task, schedule))
    best: list[Any] = [None] * len(wanted)
    bench = Bench()
    for _ in range(rounds):
        for i, (task, schedule) in enumerate(wanted):
            found = bench.time(task, schedule)
            hot, cold = found.hot, found.cold or found.hot
            if best[i] is not None:
                hot, cold = min(hot, best[i]["hot"]), min(cold, best[i]["cold"])
            best[i] = {"hot": hot, "cold": cold}
    for row, found in zip(rows, best, strict=True):
        row["measured"] = found
    name = f"{product.sizes}, {product.bits} bits, {product.activation}"
    return {"product": name, **_figures(rows), "kernels": rows}


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for kind in ("hot", "cold"):
        model, real = ([row[how][kind] for row in rows] for how in ("modelled", "measured"))
        found[f"spearman_{kind}"] = round(spearman(model, real), 3)
        found[f"chosen_over_best_{kind}"] = round(real[int(np.argmin(model))] / min(real), 3)
    return found


def overall(results: list[dict[str, Any]]) -> dict[str, float]:
    """Figures of all products together.

    Returns:
        For each of ``hot`` and ``cold``: ``spearman_`` of all times, each divided by the geometric
        mean of its product's; ``within_families_``, the same of its product's in its family, which
        is what a tuner ranks; ``median_of_products_`` and the geometric mean of
        ``chosen_over_best_``.
    """
    products = [one["kernels"] for one in results]
    parts = []
    for rows in products:
        families = {row["family"] for row in rows}
        parts += [[row for row in rows if row["family"] == one] for one in sorted(families)]
    found = {}
    for kind in ("hot", "cold"):
        found[f"spearman_{kind}"] = _spearman_of_ratios(products, kind)
        several = [rows for rows in parts if len(rows) > 1]
        found[f"within_families_{kind}"] = _spearman_of_ratios(several, kind)
        found[f"median_of_products_{kind}"] = median(one[f"spearman_{kind}"] for one in results)
        chosen = [one[f"chosen_over_best_{kind}"] for one in results]
        found[f"chosen_over_best_{kind}"] = round(float(np.exp(np.mean(np.log(chosen)))), 3)
    return found


def _spearman_of_ratios(groups: list[list[dict[str, Any]]], kind: str) -> float:
    sides = []
    for how in ("modelled", "measured"):
        logs = [np.log([row[how][kind] for row in rows]) for rows in groups]
        sides.append(np.concatenate([values - values.mean() for values in logs]))
    return round(spearman(*sides), 3)


def text(data: dict[str, Any]) -> str:
    """The results as a page."""
    machine, all_of_them = data["machine"], data["overall"]
    lines = [
        "# Modelled times against measured ones",
        "",
        f"Kernels of {TARGET} on {machine['cpu']}: modelled (QEMU {data['tools']['qemu']}, "
        f"llvm-mca {data['tools']['llvm']}, {' '.join(data['mca'])}) and measured, the best of "
        f"{data['rounds']} rounds, {data['circumstances']['date']}. A product's kernels are those "
        "of all families and baselines, with a sample of their schedules. *Chosen / best* is the "
        "measured time of the kernel that the model puts first over that of the fastest.",
        "",
        f"Rank correlation (Spearman) of all {sum(len(p['kernels']) for p in data['products'])} "
        f"kernels, each time relative to its product's mean: {all_of_them['spearman_hot']:.2f} "
        f"with the weights in the cache, {all_of_them['spearman_cold']:.2f} without. Among the "
        f"schedules of one family it is {all_of_them['within_families_hot']:.2f} and "
        f"{all_of_them['within_families_cold']:.2f}: most of these lie within a fifth of one "
        "another, and what a prefetch instruction gains is not modelled. "
        "Chosen / best "
        f"is {all_of_them['chosen_over_best_hot']:.2f} and "
        f"{all_of_them['chosen_over_best_cold']:.2f} in the geometric mean. No ARM board was "
        "measured: there the same model runs with figures out of manuals.",
        "",
        "| product | kernels | Spearman, hot | cold | chosen / best, hot | cold |",
        "|---|---|---|---|---|---|",
    ]
    for one in data["products"]:
        figures = [one["spearman_hot"], one["spearman_cold"]]
        figures += [one["chosen_over_best_hot"], one["chosen_over_best_cold"]]
        cells = " | ".join(f"{figure:.2f}" for figure in figures)
        lines.append(f"| {one['product']} | {len(one['kernels'])} | {cells} |")
    return "\n".join([*lines, ""])


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_validation")
    parser.add_argument("--schedules", type=int, default=16, help="kernels of each product")
    parser.add_argument("--rounds", type=int, default=3, help="of timing")
    options = parser.parse_args(argv)
    target = target_of_this_machine()
    times.check(target)
    assert target.core is not None
    guest = tools.setup(target.machine)
    results = []
    for product in PRODUCTS:
        results.append(compare(product, options.schedules, options.rounds, target))
        figures = {k: v for k, v in results[-1].items() if k != "kernels"}
        print(json.dumps(figures), flush=True)
    data = {
        "machine": describe(),
        "circumstances": circumstances(),
        "tools": guest.tools.versions,
        "mca": target.core.mca,
        "rounds": options.rounds,
        "overall": overall(results),
        "products": results,
    }
    files.write_text(_FOLDER / "model_validation.json", json.dumps(data, indent=1) + "\n")
    files.write_text(_FOLDER / "model_validation.md", text(data))
    print(json.dumps(data["overall"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
