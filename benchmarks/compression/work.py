"""What worker processes do: each cell once, its result in a file of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.compression import layers
from benchmarks.compression.cells import BITS, METHODS, OURS, OURS_ALLOCATED, Cell, cells
from benchmarks.compression.compiled import difference
from benchmarks.compression.models import MODELS, Folders, Model
from benchmarks.compression.models.model import Floats, noise_share
from benchmarks.compression.rivals import exchange
from benchmarks.machine import circumstances
from gq_tvm import files, quantize
from gq_tvm.errors import Error

# Where bits are allocated: those a weight for scales, and how many inputs of a row share one. At
# few bits fewer scales leave bits for the weights that need them.
_OVERHEAD, _SHARING = 0.55, {4: 32, 3: 64, 2: 128}
_RIVALS = Path(__file__).parent / "rivals"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """Where everything is, and the Python that rivals run in."""

    folders: Folders
    python: str = sys.executable


def one_thread() -> None:
    """Set a worker up."""
    torch.set_num_threads(1)


def prepare(setting: Setting, name: str) -> str:
    """The float network's outputs and layers, before cells ask for them."""
    model, net = _network(setting.folders, name)
    if not _floats_file(setting.folders, name).exists():
        _save_floats(setting.folders, model, net)
    source = _layers_file(setting.folders, name)
    if not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(source) as temporary:
            exchange.write(str(temporary), layers.layers(model, net))
    return f"{name}: {model.title}, float outputs and layers"


def measure(setting: Setting, cell: Cell) -> str:
    """Compress one network one way, run it, keep what it lost."""
    path, wanted = result_file(setting.folders, cell), fingerprint(cell)
    if path.exists() and json.loads(path.read_text())["fingerprint"] == wanted:
        return ""
    begun = time.monotonic()
    model, net = _network(setting.folders, cell.model)
    floats = np.load(_floats_file(setting.folders, cell.model))
    try:
        changed, sizes = _compressed(setting, cell, model, net)
    except RivalFailed as failure:
        result: dict[str, Any] = {"absent": str(failure)}
    else:
        outputs = model.outputs(changed)
        result = {
            "bytes": sizes,
            "loss": noise_share(outputs, floats),
            "measures": model.measures(changed, outputs, floats),
        }
        if cell.compiled:
            result["compiled"] = difference(model, changed, outputs)
    whole = {
        "cell": asdict(cell),
        "fingerprint": wanted,
        **result,
        "seconds": round(time.monotonic() - begun, 1),
        "circumstances": circumstances(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(whole) + "\n")
    said = result.get("absent") or f"loss {result['loss']:.5f} {_said(result['measures'])}"
    return f"{cell.name}: {said} ({whole['seconds']} s)"


def _said(measures: dict[str, Any]) -> str:
    return " ".join(f"{k} {v:.4f}" for k, v in measures.items() if isinstance(v, float))


def fingerprint(cell: Cell) -> str:
    """What decides a cell's outcome: results of other code are made anew."""
    method = METHODS[cell.method]
    sources = _rival_sources(method.rival) if method.rival else _our_sources()
    sources += [Path(sys.modules[MODELS[cell.model].__module__].__file__ or "")]
    digest = hashlib.sha256(json.dumps(asdict(cell)).encode())
    for source in sources:
        digest.update(_digest(source))
    return digest.hexdigest()[:16]


def _rival_sources(rival: str) -> list[Path]:
    return [_RIVALS / "exchange.py", _RIVALS / f"{rival}.py"]


def _our_sources() -> list[Path]:
    return sorted((_ROOT / "gq_tvm" / "quantize").rglob("*.py"))


@cache
def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


class RivalFailed(Exception):
    """A rival does not have this variant here; one line says why."""


def _compressed(
    setting: Setting, cell: Cell, model: Model, net: nn.Module
) -> tuple[nn.Module, dict[str, int]]:
    """The network as the cell has it, and bytes by name of weight."""
    if METHODS[cell.method].rival:
        path = rounded_file(setting, cell.model, METHODS[cell.method].rival, cell.variant)
        if _refusal(path).exists():
            raise RivalFailed(_refusal(path).read_text().strip())
        rounded = exchange.read_rounded(str(path))
        changed = layers.rebuilt(model, net, rounded, cell.activation)
        return changed, {name: one.bytes for name, one in rounded.items()}
    options: dict[str, Any] = {"progress": None}
    if cell.method != OURS:
        options["inputs"] = model.calibrate
    overrides: dict[str, int | None] = dict(model.left)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is lost stands in the table
        if cell.method == OURS_ALLOCATED:
            options["scales"] = _SHARING[cell.bits]
            overrides |= _allocated(setting, cell, model, net)
        changed = quantize.compress(net, cell.bits, overrides, cell.activation, **options)
    names = {w.name for w in layers.quantised(model, net)}
    return changed.eval(), {w.name: w.bytes for w in quantize.describe(changed) if w.name in names}


def _allocated(setting: Setting, cell: Cell, model: Model, net: nn.Module) -> dict[str, int]:
    """Bits by weight, none left in float, that take the bytes of so many each and of scales."""
    counts = layers.counts(model, net)
    scales = _SHARING[cell.bits]
    name = f"{fingerprint(replace(cell, variant=''))}-{scales}.json"
    path = setting.folders.work / "sensitivities" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = quantize.sensitivity(
            net, model.calibrate, activation=cell.activation, scales=scales, progress=None
        )
        found.save(path)
    measured = quantize.Sensitivity.load(path)
    weights = {name: one for name, one in measured.weights.items() if name in counts}
    budget = round((cell.bits + _OVERHEAD) * sum(counts.values()) / 8)
    chosen = quantize.allocate(replace(measured, weights=weights, fixed=0), budget, progress=None)
    return {name: min(bits, BITS[0]) for name, bits in chosen.items()}


def round_rivals(setting: Setting, item: tuple[str, str]) -> str:
    """What one rival makes of one network's weights, in a process of its own, for all cells."""
    name, rival = item
    variants = {c.variant for c in cells((name,)) if METHODS[c.method].rival == rival}
    targets = {one: rounded_file(setting, name, rival, one) for one in sorted(variants)}
    missing = {
        variant: path
        for variant, path in targets.items()
        if not path.exists() and not _refusal(path).exists()
    }
    if not missing:
        return ""
    (setting.folders.work / "weights").mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [
            setting.python, "-m", "benchmarks.compression.rivals",
            rival, str(_layers_file(setting.folders, name)),
            *(f"{variant}={path}" for variant, path in missing.items()),
        ],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Error(f"{rival} on {name} failed: {line[:200]}")
    return f"{name}: {rival}, {len(missing)} variants"


def rounded_file(setting: Setting, name: str, rival: str, variant: str) -> Path:
    key = hashlib.sha256(b"".join(map(_digest, _rival_sources(rival)))).hexdigest()[:8]
    return setting.folders.work / "weights" / f"{name}_{rival}_{variant}_{key}.npz"


def _refusal(path: Path) -> Path:
    return path.with_name(f"{path.name}.txt")


@cache
def _network(folders: Folders, name: str) -> tuple[Model, nn.Module]:
    model = MODELS[name](folders)
    return model, model.load()


def _save_floats(folders: Folders, model: Model, net: nn.Module) -> None:
    path = _floats_file(folders, model.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs: Floats = model.outputs(net)
    facts = {
        "weights": layers.counts(model, net),
        "left": layers.left_in_float(model, net),
        "measures": model.measures(net, outputs, outputs),
    }
    files.write_text(facts_file(folders, model.name), json.dumps(facts) + "\n")
    with files.whole(path) as temporary, temporary.open("wb") as file:
        np.save(file, outputs)


def result_file(folders: Folders, cell: Cell) -> Path:
    """Where a cell's result is."""
    return folders.work / "cells" / f"{cell.name}.json"


def facts_file(folders: Folders, name: str) -> Path:
    """Where it is what the float network holds and does."""
    return folders.work / "floats" / f"{name}.json"


def _floats_file(folders: Folders, name: str) -> Path:
    return folders.work / "floats" / f"{name}.npy"


def _layers_file(folders: Folders, name: str) -> Path:
    return folders.work / "layers" / f"{name}.npz"
