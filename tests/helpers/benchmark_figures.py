"""A small file of figures."""

from __future__ import annotations

from benchmarks.harness import Timing
from benchmarks.results import Figures, Results, Row

MACHINE = {
    "cpu": "Example CPU (family 1, model 2)",
    "architecture": "x86_64",
    "cores": 2,
    "caches": {"L1d": "32K", "L2": "1024K", "L3": "32768K"},
    "vector_features": ["avx2"],
    "governor": "not visible",
    "virtual": True,
    "kernel": "6.1",
}
CEILINGS = {
    "clock": 4.0,
    "bytes": {"L1": 400.0, "L2": 200.0, "L3": 100.0, "DRAM": 20.0},
    "operations": {"fp32 (x)": 200.0, "int8 dot product (x)": 800.0, "1 x 1 bit (x)": 4000.0},
}
CIRCUMSTANCES = {
    "date": "2030-01-02 03:04 UTC",
    "load": [0.5, 0.4, 0.3],
    "commit": "0123456789ab",
    "versions": {"python": "3.11.0"},
}


def row(system: str, name: str, bits: float, hot: float, cold: float, size: int = 10**6) -> Row:
    timing = Timing(hot, 1.1 * hot, 0.9 * cold, cold)
    return Row(system, name, bits, "int8", "", "lookup: a=1", size, 0.1, None, timing)


def layer(rows: list[Row], count: int = 1, threads: int = 1, shape=(4096, 1024)) -> Figures:
    name = f"{shape[0]}x{shape[1]}, {count} row{'s' * (count > 1)}"
    problem = {"kind": "layer", "name": name, "threads": threads, "outputs": shape[0],
               "inputs": shape[1], "rows": count}  # fmt: skip
    return Figures(problem, CIRCUMSTANCES, rows, {"ggml": "ggml cannot be built: no"})


def model(name: str, rows: list[Row]) -> Figures:
    problem = {"kind": "model", "name": name, "threads": 1, "weights": 1000}
    return Figures(problem, CIRCUMSTANCES, rows, {})


def results(*figures: Figures) -> Results:
    made = Results(dict(MACHINE), {"1": CEILINGS})
    for one in figures:
        made.add(one)
    return made
