"""What a training step costs with quantised weights, over one with float weights.

    python -m benchmarks.training_step [--rounds N]

The step is the RNN-T's in its default sizes on a batch of random frames: forward, transducer
loss, backward, AdamW. One thread; CPU time, in one process, in turns (see ``harness``); a figure
is the median over the rounds of the ratio to the float step of the same round. Memory is what a
process of its own grows by, at its peak, from before the model is made. Writes
``docs/training_step.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import circumstances, describe
from gq_tvm import files, quantize
from gq_tvm.command import command
from gq_tvm.errors import Error
from gq_tvm.models.data.batches import Batch
from gq_tvm.models.networks.network import NetworkSettings, build
from gq_tvm.models.training.objective import objective

BATCH, FRAMES, TOKENS = 32, 70, 12
LIMIT = 1.5  # of the float step's time and memory
_FOLDER = Path(__file__).parents[1] / "docs"
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    """One kind of training step.

    Attributes:
        name: Its name in the results.
        bits: Of all weights; 32 for float.
        method: ``"gq"`` or ``"lsq"``; "" for float weights.
        hard: Whether GQ has hardened.
        activation: As in ``quantize.prepare``.
        options: More options of ``quantize.prepare``.
        beyond: Whether activations are rounded step by step, for which no limit is set.
    """

    name: str
    bits: int = 32
    method: str = ""
    hard: bool = False
    activation: str = "int8"
    options: tuple[tuple[str, Any], ...] = ()
    beyond: bool = False


def all_cases() -> list[Case]:
    """Float first, then GQ at each bit-width, soft and hard, its options, and LSQ."""
    found = [Case("fp32")]
    for bits in range(1, 9):
        found += [
            Case(f"gq {bits} {mode}", bits, "gq", mode == "hard") for mode in ("soft", "hard")
        ]
    found += [
        Case("gq 4 soft, fp32 activations", 4, "gq", activation="fp32"),
        Case("gq 4 soft, per row", 4, "gq", options=(("per_row", True),)),
        Case("gq 4 soft, learned mu", 4, "gq", options=(("learn_mu", True),)),
        *(Case(f"lsq {bits}", bits, "lsq") for bits in (2, 4, 8)),
        Case(
            "gq 4 hard, exact state", 4, "gq", True, options=(("exact_state", True),), beyond=True
        ),
        Case("gq 1 soft, int1 activations", 1, "gq", activation="int1", beyond=True),
    ]
    return found


def training_step(case: Case, settings: NetworkSettings, batch: int = BATCH) -> Callable[[], None]:
    """Make a model of that kind and return what trains it by one step."""
    torch.manual_seed(0)
    model = build(settings).train()
    if case.method:
        options = dict(case.options)
        quantize.prepare(
            model, case.bits, activation=case.activation, method=case.method, **options
        )
    if case.method == "gq":
        quantize.Annealing(model, 100, hard=1.0 if case.hard else 0.0)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    features = torch.randn(batch, FRAMES, settings.features)
    tokens = torch.randint(1, settings.tokens, (batch, TOKENS))
    frames, lengths = torch.full((batch,), FRAMES), torch.full((batch,), TOKENS)
    drawn = Batch(features, frames, tokens, lengths)

    def step() -> None:
        loss = objective(model, drawn)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def times(steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each step, and its ratio to the first's: medians over the rounds."""
    for step in steps.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    for turn in range(rounds):
        for name in list(steps) if turn % 2 == 0 else reversed(list(steps)):
            begun = time.process_time()
            steps[name]()
            taken[name].append(time.process_time() - begun)
    gc.enable()
    first = taken[next(iter(steps))]
    return {
        name: {
            "ms": round(1e3 * median(each), 1),
            "time_ratio": round(median(a / b for a, b in zip(each, first, strict=True)), 3),
        }
        for name, each in taken.items()
    }


def peak_memory(case: Case) -> float:
    """MiB that two steps in a process of their own add to it at their peak."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_step", "--memory", case.name],
        cwd=_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Error(f"the step {case.name!r} failed in its process: {done.stderr.strip()[-2000:]}")
    return float(done.stdout)


def _memory_of_this_process(case: Case, settings: NetworkSettings) -> float:
    before = _memory("VmRSS")
    step = training_step(case, settings)
    for _ in range(2):  # the optimiser has its state after the first
        step()
    return _memory("VmHWM") - before


def _memory(field: str) -> float:
    # Not ``ru_maxrss``: a process starts with that of the one it was forked from.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(rounds: int) -> list[dict[str, Any]]:
    """All cases: time, then memory."""
    cases, settings = all_cases(), NetworkSettings()
    found = times({case.name: training_step(case, settings) for case in cases}, rounds)
    rows: list[dict[str, Any]] = []
    for case in cases:
        row = {**asdict(case), **found[case.name], "mib": round(peak_memory(case), 1)}
        row["memory_ratio"] = round(row["mib"] / (rows[0] if rows else row)["mib"], 3)
        rows.append(row)
    return rows


def worst(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The largest ratios of time and memory among the rows that the limit holds for."""
    held = [row for row in rows if not row["beyond"]]
    return {kind: max(row[kind] for row in held) for kind in ("time_ratio", "memory_ratio")}


def text(data: dict[str, Any]) -> str:
    """The results as a page."""
    most, about = worst(data["rows"]), data["circumstances"]
    kept = "Kept" if max(most.values()) <= LIMIT else "Missed"
    lines = [
        "# A training step with quantised weights",
        "",
        f"The RNN-T in its default sizes ({data['weights']:,} weights), {BATCH} strings of "
        f"{FRAMES} frames and {TOKENS} tokens: forward, transducer loss, backward, AdamW. One "
        f"thread of {data['machine']['cpu']}, PyTorch {about['versions']['torch']}, "
        f"{about['date']}. CPU time, the median of {data['rounds']} rounds in turns; memory is "
        "what a process of its own grows by at its peak. Activations int8 where nothing else is "
        "said. Made by `python -m benchmarks.training_step`.",
        "",
        f"Limit: {LIMIT}x the float step. {kept}: at most {most['time_ratio']:.2f}x the time and "
        f"{most['memory_ratio']:.2f}x the memory. No limit is set for rows marked *: they round an "
        "LSTM's state at each of its steps, for which PyTorch's fused LSTM is left.",
        "",
        "| step | ms | time | MiB | memory |",
        "|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        lines.append(
            f"| {row['name']}{' *' if row['beyond'] else ''} | {row['ms']:.0f} "
            f"| {row['time_ratio']:.2f}x | {row['mib']:.0f} | {row['memory_ratio']:.2f}x |"
        )
    return "\n".join([*lines, ""])


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step")
    parser.add_argument("--rounds", type=int, default=6, help="of timing (%(default)s)")
    parser.add_argument("--memory", metavar="STEP", help="print the MiB of one step and stop")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise Error(f"--rounds must be at least 1, got {options.rounds}.")
    torch.set_num_threads(1)
    if options.memory:
        cases = {case.name: case for case in all_cases()}
        if options.memory not in cases:
            raise Error(f"--memory: no step {options.memory!r}; one of {', '.join(cases)}.")
        print(_memory_of_this_process(cases[options.memory], NetworkSettings()))
        return 0
    data = {
        "machine": describe(),
        "circumstances": circumstances(),
        "weights": sum(p.numel() for p in build(NetworkSettings()).parameters() if p.dim() > 1),
        "rounds": options.rounds,
        "rows": measure(options.rounds),
    }
    files.write_text(_FOLDER / "training_step.json", json.dumps(data, indent=1) + "\n")
    page = text(data)
    files.write_text(_FOLDER / "training_step.md", page)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
