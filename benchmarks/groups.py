"""What scales of groups cost: ``python -m benchmarks.groups``.

The kernels of one product, its weight with a scale for each row and with one for each group of
inputs, stored as float32, float16 or uint8, take turns in this process; the fastest of many calls
with the weights in the cache counts. Prints times as multiples of those with a scale for each row.

On AVX2 (AMD EPYC, other work beside) float16 scales of groups of 32 cost `lookup` 8 to 16% at 4
to 2 bits, of 128 up to 9%, of 16 14 to 35%; `lookup_f32` nothing that can be told from noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import product, repeat

import tvm

from gq_tvm import targets
from gq_tvm.columns import columns
from gq_tvm.schedules import Product, Schedule, family
from gq_tvm.schedules.choosing import database
from gq_tvm.schedules.choosing.chooser import Chooser
from gq_tvm.targets import native
from gq_tvm.tuning.bench import NAME, compiled
from gq_tvm.tuning.case import Case
from gq_tvm.tuning.task import Task

SHAPES = ((1024, 1024), (512, 2048))
ROWS = (1, 16)
BITS = (4, 3, 2)
STORED = ("float32", "float16", "uint8")
FAMILIES = {"lookup": "int8", "lookup_f32": "fp32"}
_CHUNK = 3e-4  # seconds: less than a share of a busy CPU


class Kernel:
    """A kernel, compiled, with what it is called with."""

    def __init__(self, task: Task, schedule: Schedule) -> None:
        kernel = task.kernel(schedule).with_attr("global_symbol", NAME)
        inputs, outputs = Case(task).arguments(schedule)
        self._arguments = [tvm.runtime.tensor(one) for one in (*inputs, *outputs)]
        self._module = compiled(kernel, targets.get(task.target)).jit()
        self._number, self.best = 1, float("inf")
        self._number = max(1, round(_CHUNK / self.time()))

    def time(self) -> float:
        """Seconds of a call, the least mean of a few."""
        timer = self._module.time_evaluator(NAME, tvm.cpu(), number=self._number, repeat=3)
        found = float(min(timer(*self._arguments).results))
        self.best = min(self.best, found)
        return found


def tasks(
    name: str, shape: tuple[int, int], bits: int, rows: int, forms: Sequence[tuple[int, str]]
) -> list[Task]:
    """The product with a scale for each row, then those of ``forms``: groups and dtypes."""
    target = targets.get("native")
    plain = Product(*shape, bits, FAMILIES[name], rows)
    products = [plain, *(replace(plain, group=group, scale_type=dtype) for group, dtype in forms)]
    chooser = Chooser(target, database.load(target))
    chosen = [chooser.choice(family(name), one).schedule for one in products]
    return [Task(target.name, name, *one) for one in zip(products, repeat(1), chosen, strict=False)]


def best_of(kernels: Sequence[Kernel], rounds: int) -> list[float]:
    """Seconds of each kernel, at its best of some turns."""
    for turn in range(rounds):
        for one in kernels if turn % 2 else reversed(kernels):
            one.time()
    return [one.best for one in kernels]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Time scales of groups against scales of rows.")
    parser.add_argument("--rounds", type=int, default=60, help="turns (%(default)s)")
    parser.add_argument("--bits", type=int, nargs="*", default=BITS, help="(%(default)s)")
    options = parser.parse_args()
    forms = [(32, dtype) for dtype in STORED] + [(size, "float16") for size in (16, 64, 128)]
    heads = [f"{size} {dtype}" for size, dtype in forms]
    table = [["kernel", "shape", "bits", "rows", "us", *heads]]
    for name, shape, bits, rows in product(FAMILIES, SHAPES, options.bits, ROWS):
        kernels = [Kernel(one, one.default) for one in tasks(name, shape, bits, rows, forms)]
        plain, *others = best_of(kernels, options.rounds)
        ratios = [f"{other / plain:.2f}" for other in others]
        words = [name, "x".join(map(str, shape)), str(bits), str(rows), f"{1e6 * plain:.1f}"]
        table.append([*words, *ratios])
    print(f"{native.name()}, one thread; us: a scale for each row; others are multiples of that")
    print(columns(table, right=range(2, len(table[0]))))


if __name__ == "__main__":
    main()
