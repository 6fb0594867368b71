"""One cell: quantise, train as the method says, decode both speakers."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from benchmarks.accuracy.cells import ABLATIONS, NETWORKS, ROWS, Cell
from benchmarks.accuracy.data import Data
from gq_tvm import quantize
from gq_tvm.models.allocation.sizes import deployed_weights, float_vector_bytes
from gq_tvm.models.networks.network import Network, build
from gq_tvm.models.training import checkpoint
from gq_tvm.models.training.objective import Teacher
from gq_tvm.models.training.trainer import Schedule, Trainer, restore_model
from gq_tvm.quantize.quantisers.uniform import LearnedStep
from gq_tvm.quantize.training_layers.quant_layers import QuantLayer

_FIRST = Schedule(steps=3200, learning_rate=2e-3, save_every=400)
_SECOND = Schedule(
    steps=1600, learning_rate=1.5e-3, curriculum=(0.0, 0.0), auxiliary=(0.2, 0.2), save_every=400
)
#: Schedules of the float networks, one after another; a Conformer learns more slowly.
BASE = {"rnnt": (_FIRST,), "conformer": (_FIRST, _SECOND)}
FINE = Schedule(
    steps=300,
    learning_rate=6e-4,
    warmup=20,
    curriculum=(0.0, 0.0),
    auxiliary=(0.2, 0.2),
    save_every=10**9,
)
ANNEALING: dict[str, Any] = {"start": 4.0, "end": 40.0, "hard": 0.5}
#: Of LSQ's steps, which learn by their logarithm: as fast as the outer centroids of GQ, of whose
#: values a step in the mu-law space is 5.5 times as large a share.
STEP_RATE = 5.5
CALIBRATION = 24  # batches that `compress` is given, of another seed than trainings
DISTILLATION = 1.0  # in nats a node of the lattice, beside a loss of one

Report = Callable[[str], None]


def batch_seed(seed: int) -> int:
    """The seed of a cell's batches: others than those the float weights saw."""
    return 100 + seed


def fingerprint(cell: Cell, data: Data) -> str:
    """What decides a cell's outcome, beside the code: results of others are made anew."""
    options = ROWS[cell.row].options(cell.network) if cell.row in ROWS else {}
    settings = {
        "cell": asdict(cell),
        "network": NETWORKS[cell.network].to_dict(),
        "options": options,
        "ablation": ABLATIONS[cell.ablation][1:] if cell.ablation else (),
        "base": [asdict(schedule) for schedule in BASE[cell.network]],
        "weights": [_digest(path) for path in _base_files(cell.network, data)],
        "fine": asdict(FINE) if cell.trains else {},
        "annealing": ANNEALING if cell.trains else {},
        "distillation": DISTILLATION if cell.trains else 0,
        "step_rate": STEP_RATE if cell.method == "lsq" else 0,
        "calibration": CALIBRATION if cell.compresses else 0,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _base_files(network: str, data: Data) -> list[Path]:
    numbers = range(1, len(BASE[network]) + 1)
    return [data.folder / f"{network}-base-{number}.safetensors" for number in numbers]


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def base(network: str, data: Data, report: Report) -> Network:
    """The trained float network that all cells start from; trained when first asked for."""
    torch.manual_seed(1)
    model = build(NETWORKS[network])
    stages = zip(BASE[network], _base_files(network, data), strict=True)
    for number, (schedule, path) in enumerate(stages, 1):
        tensors, description = checkpoint.load(path) if path.exists() else ({}, {})
        if description.get("step") == schedule.steps:
            restore_model(model, tensors)
            continue
        # A seed of its own: other batches than those before.
        trainer = Trainer(model, data.batches(number), schedule, number, report=report, path=path)
        if tensors:
            trainer.restore(tensors, description["step"])
        trainer.run()
    return model


def made(cell: Cell, data: Data, report: Report) -> tuple[Network, int]:
    """The cell's network, quantised and trained as it says, and its bytes when it is deployed."""
    float_model = base(cell.network, data, report)
    quantised = partial(_compressed, data) if cell.compresses else prepared
    model = quantised(cell, float_model)
    if cell.trains:
        _train(cell, model, float_model, data, report)
    matrices = sum(one.size for one in deployed_weights(model))
    return model, matrices + float_vector_bytes(float_model)


def _compressed(data: Data, cell: Cell, float_model: Network) -> Network:
    drawn = data.batches(batch_seed(0))
    batches = [drawn.draw(step) for step in range(CALIBRATION)]
    options = ROWS[cell.row].options(cell.network)
    options["scales"] = "row" if cell.method == "compress-row" else None
    inputs = [(one.features, one.tokens) for one in batches]
    return cast(Network, quantize.compress(float_model, **options, inputs=inputs, progress=None))


def prepared(cell: Cell, float_model: Network) -> Network:
    """A copy of the float network with the cell's quantisers."""
    model = copy.deepcopy(float_model)
    if cell.method in ("fp32", "float"):
        return model
    if cell.method == "int8":
        return _prepare(model, {"bits": 8, "activation": "fp32", "method": "int8"})
    options = ROWS[cell.row].options(cell.network)
    if cell.ablation:
        options |= ABLATIONS[cell.ablation][1]
    if cell.method == "lloyd-max":
        return _prepare(model, {**options, "mu": 0.0})
    method = "lsq" if cell.method == "rounding" else cell.method
    model = _prepare(model, {**options, "method": method})
    if cell.method == "rounding":
        _round_to_the_largest(model)
    return model


def _prepare(model: Network, options: dict[str, Any]) -> Network:
    return cast(Network, quantize.prepare(model, **options))


def _round_to_the_largest(model: nn.Module) -> None:
    """Steps as rounding takes them: the outermost level is max|W|."""
    for layer in model.modules():
        if isinstance(layer, QuantLayer):
            for name in layer.quantizers:
                quantizer = layer.quantizer(name)
                assert isinstance(quantizer, LearnedStep)
                step = quantizer.largest(getattr(layer, name)) / quantizer.levels.abs().max()
                quantizer.log_step.data.copy_(step.log().view(-1))


def _train(cell: Cell, model: Network, float_model: Network, data: Data, report: Report) -> None:
    annealing = None
    if cell.method != "fp32":
        changes = ABLATIONS[cell.ablation][2] if cell.ablation else {}
        annealing = quantize.Annealing(model, steps=FINE.steps, **{**ANNEALING, **changes})
    teacher = Teacher(float_model, DISTILLATION)
    rate = STEP_RATE if cell.method == "lsq" else 1.0
    Trainer(
        model,
        data.stored(batch_seed(cell.seed), FINE.steps),
        replace(FINE, quantiser_rate=rate),
        cell.seed,
        phase=cell.name,
        annealing=annealing,
        teacher=teacher,
        report=report,
    ).run()
