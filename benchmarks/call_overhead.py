"""What a call costs beside its kernel: ``python benchmarks/call_overhead.py``.

Models of one layer, each called in every way there is, in turns; the best of many rounds counts.
Prints a table in microseconds and writes the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import timeit
from collections.abc import Callable
from functools import partial

import torch

import gq_tvm
from gq_tvm import files, quantize
from gq_tvm.columns import columns
from gq_tvm.targets import native

SIZES = (64, 256, 512)
CALLS = 500  # a round
#: CPython takes its stack from the system in pieces, and a call that needs the next piece pays for
#: it each time: rounds are run at several depths of the stack.
DEPTHS = range(0, 120, 15)
WAYS = {
    "kernel": "the layer's kernel, timed by the core",
    "function": "the function, timed by the core",
    "bound": "net.bind(x)(), aligned arrays",
    "numpy": "net(x) with NumPy arrays",
    "torch": "net(x) with PyTorch tensors",
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Time a call of a model of one layer.")
    parser.add_argument("--rounds", type=int, default=5, help="turns at each depth (%(default)s)")
    parser.add_argument("--json", metavar="FILE", default="build/call_overhead.json")
    options = parser.parse_args()
    rows, found = [["layer", *WAYS, "bound - kernel", "numpy - kernel"]], {}
    for size in SIZES:
        best = measure(size, options.rounds)
        found[f"{size}x{size}"] = best
        beside = [best[way] - best["kernel"] for way in ("bound", "numpy")]
        rows.append([f"{size}x{size}", *(f"{us:.2f}" for us in (*best.values(), *beside))])
    print(columns(rows, right=range(1, len(rows[0]))))
    for way, meaning in WAYS.items():
        print(f"  {way}: {meaning}")
    about = {"unit": "us", "cpu": native.name(), "python": platform.python_version()}
    files.write_text(options.json, json.dumps({**about, "calls": found}, indent=1) + "\n")


def measure(size: int, rounds: int) -> dict[str, float]:
    """Microseconds of each way to call a ``size`` x ``size`` layer, 4 bits, int8, one row."""
    net = one_layer(size)
    x = torch.randn(1, size)
    array = x.numpy()
    tied = net["main"].timed([array])
    best = dict.fromkeys(WAYS, float("inf"))
    timers: dict[str, Callable[[int], list[float]]] = {
        "kernel": lambda count: tied.time_kernels(count, 1)[:, 0].tolist(),
        "function": tied.time,
    }
    calls: dict[str, Callable[[], object]] = {
        "bound": net.bind(x, outputs=[torch.zeros(1, size)]),
        "numpy": lambda: net(array),
        "torch": lambda: net(x),
    }
    for _ in range(rounds):
        for depth in DEPTHS:
            for way, timer in timers.items():
                best[way] = min(best[way], *timer(CALLS))
            for way, call in calls.items():
                seconds = at_depth(depth, partial(timeit.timeit, call, number=CALLS))
                best[way] = min(best[way], seconds / CALLS)
    return {way: 1e6 * seconds for way, seconds in best.items()}


def one_layer(size: int) -> gq_tvm.runtime.Model:
    """A compiled model that is one linear layer."""
    model = quantize.compress(
        torch.nn.Sequential(torch.nn.Linear(size, size)), bits=4, scales="tensor", outliers=0
    )
    program = torch.export.export(model.eval(), (torch.zeros(1, size),))
    with tempfile.TemporaryDirectory() as folder:
        gq_tvm.build(program).save(f"{folder}/layer.gq")
        return gq_tvm.load(f"{folder}/layer.gq")


def at_depth(depth: int, run: Callable[[], float]) -> float:
    """Return ``run()``, called from ``depth`` frames further down the stack."""
    return at_depth(depth - 1, run) if depth else run()


if __name__ == "__main__":
    main()
