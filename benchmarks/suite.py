"""Measuring: builds every candidate of a problem, lets them take turns, keeps the rows."""

from __future__ import annotations

import fcntl
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine, ours, peers
from benchmarks.candidate import Candidate, Ready
from benchmarks.harness import Harness, Plan
from benchmarks.problems import MODELS, ROWS, SHAPES, Layer, Model
from benchmarks.results import Figures, Row

Say = Callable[[str], object]
Problem = Layer | Model

#: Whole models take longer a call, and their first calls fault their memory in.
LAYER_PLAN = Plan()
MODEL_PLAN = Plan(chunk_us=2500, warm_us=1500)
# Worker threads spin for milliseconds after a call and would steal the next candidate's core.
_SETTLE_US = 5000


@dataclass(frozen=True)
class Suite:
    """What a run measures.

    Attributes:
        threads: Numbers of threads.
        layers: Whether layers are measured.
        models: Whether whole models are.
        quick: Only two layers and the smallest model, few rounds.
        systems: gq-tvm and peers that take part.
        lock: A file that is locked while figures are taken, so that runs on one machine take turns.
    """

    threads: Sequence[int]
    layers: bool = True
    models: bool = True
    quick: bool = False
    systems: Sequence[str] = (ours.SYSTEM, *peers.SYSTEMS)
    lock: Path | None = None

    def problems(self) -> list[Problem]:
        """Return what is measured, in order."""
        shapes, rows = (SHAPES[:1], ROWS[:2]) if self.quick else (SHAPES, ROWS)
        names = list(MODELS)[1:2] if self.quick else list(MODELS)
        found: list[Problem] = []
        for threads in self.threads:
            if self.layers:
                found += [Layer(*shape, count, threads) for shape in shapes for count in rows]
            if self.models:
                found += [Model(name, threads) for name in names]
        return found

    def measure(self, problem: Problem, harness: Harness, say: Say) -> Figures:
        """Measure one problem."""
        torch.set_grad_enabled(False)
        torch.set_num_threads(problem.threads)
        absent: dict[str, str] = {}
        ready: dict[str, tuple[Candidate, Ready, float | None, float | None]] = {}
        for candidate in self._candidates(problem, absent):
            say(f"building {candidate.label}")
            try:
                made = candidate.prepare()
                made.run()
                y = np.array(made.output(), np.float64).reshape(problem.reference.shape)
                exact = None if candidate.expected is None else distance(y, candidate.expected())
                ready[candidate.label] = candidate, made, distance(y, problem.reference), exact
            except Exception as failure:  # whatever a system raises, its row says it
                absent[candidate.label] = reason(failure)
        say(f"measuring {len(ready)} candidates")
        with held(self.lock):
            circumstances = machine.circumstances()
            timings = harness.measure(
                {label: made.run for label, (_, made, _, _) in ready.items()}, self._plan(problem)
            )
        rows = [
            Row(
                one.system, one.name, one.bits, one.activation, one.codebook, made.detail,
                made.weight_bytes, error, exact, timings[label],
            )
            for label, (one, made, error, exact) in ready.items()
        ]  # fmt: skip
        ready.clear()
        gc.collect()
        return Figures(described(problem), circumstances, rows, absent)

    def _candidates(self, problem: Problem, absent: dict[str, str]) -> Iterator[Candidate]:
        for system in self.systems:
            try:
                if system == ours.SYSTEM:
                    yield from ours.candidates(problem)
                else:
                    yield from peers.candidates(system, problem)
            except Exception as failure:  # a package that is not there, or does not load
                absent[system] = reason(failure)

    def _plan(self, problem: Problem) -> Plan:
        plan = LAYER_PLAN if isinstance(problem, Layer) else MODEL_PLAN
        options: dict[str, Any] = {"rounds": 2} if self.quick else {}
        if problem.threads > 1:
            options["settle_us"] = _SETTLE_US
        return replace(plan, **options)


def described(problem: Problem) -> dict[str, Any]:
    """The problem as the file of figures has it."""
    same = {"name": problem.name, "threads": problem.threads}
    if isinstance(problem, Layer):
        sizes = {"outputs": problem.outputs, "inputs": problem.inputs, "rows": problem.rows}
        return {"kind": "layer", **same, **sizes}
    return {"kind": "model", **same, "weights": problem.weights}


def distance(y: np.ndarray, reference: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


def reason(failure: Exception) -> str:
    """The first line of what went wrong."""
    text = (str(failure).strip() or type(failure).__name__).splitlines()[0]
    return text[:200]


@contextmanager
def held(path: Path | None) -> Iterator[None]:
    """Hold a lock on ``path``, if it is one."""
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
