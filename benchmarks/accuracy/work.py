"""What worker processes do: each stage of each cell once, its result in a file of its own."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

import gq_tvm
from benchmarks.accuracy import cell as cells
from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.data import Data
from benchmarks.machine import circumstances
from gq_tvm import files, quantize
from gq_tvm.models import export
from gq_tvm.models.networks.network import Network
from gq_tvm.models.training.batched_decoding import transcribe_batched
from gq_tvm.recognition import recogniser_of

ROLES = ("development", "test")


def one_thread() -> None:
    """Set a worker up: two processes of one thread are faster than one of two."""
    torch.set_num_threads(1)


def prepare_data(data: Data, _: object) -> str:
    """Means of the features, before anybody asks for them."""
    return f"{data.features.sample_rate} Hz, {data.features.size} features a frame"


def prepare_base(data: Data, network: str) -> str:
    """The float network that all cells start from."""
    cells.base(network, data, _quiet(network))
    return f"{network}: trained in fp32"


def prepare_batches(data: Data, seed: int) -> str:
    """The batches of all cells of a seed."""
    data.stored(cells.batch_seed(seed), cells.FINE.steps)
    return f"seed {seed}: batches drawn"


def train(data: Data, cell: Cell) -> str:
    """Quantise, train, decode; keeps what was heard and the exported program."""
    path, fingerprint = result_file(data, cell), cells.fingerprint(cell, data)
    if path.exists() and json.loads(path.read_text())["fingerprint"] == fingerprint:
        return ""
    compiled_file(data, cell).unlink(missing_ok=True)
    begun, processor = time.monotonic(), time.process_time()
    model, size = cells.made(cell, data, _quiet(cell.name))
    seconds = round(time.process_time() - processor, 1)
    heard = {}
    for role in ROLES:
        heard[role] = transcribe_batched(model, data.evaluation_set(role).features)
    if cell.deployed:
        export.save(cast(Network, quantize.convert(model)), data.features, program_file(data, cell))
    result = {
        "cell": asdict(cell),
        "fingerprint": fingerprint,
        "bytes": size,
        "heard": heard,
        "training_cpu_seconds": seconds,
        "seconds": round(time.monotonic() - begun, 1),
        "circumstances": circumstances(),
    }
    _write(path, result)
    return f"{cell.name}: {seconds:.0f} s"


def verify(data: Data, cell: Cell) -> str:
    """Compile the cell's program and compare what it hears with PyTorch, word by word."""
    path = compiled_file(data, cell)
    if path.exists():
        return ""
    folder = program_file(data, cell).with_suffix(".gq")
    gq_tvm.build(program_file(data, cell)).save(folder)
    recogniser = recogniser_of(gq_tvm.load(folder), cell.name)
    heard = json.loads(result_file(data, cell).read_text())["heard"]
    differing = 0
    for role in ROLES:
        for spoken, text in zip(data.spoken(role), heard[role], strict=True):
            differing += recogniser.transcribe(spoken.samples(recogniser.sample_rate)) != text
    _write(path, {"differing": differing, "utterances": sum(map(len, heard.values()))})
    return f"{cell.name}: compiled, {differing} texts differ from PyTorch's"


def result_file(data: Data, cell: Cell) -> Path:
    """Where a cell's result is."""
    return data.folder / "cells" / f"{cell.name}.json"


def compiled_file(data: Data, cell: Cell) -> Path:
    """Where it is what the compiled cell heard otherwise."""
    return result_file(data, cell).with_suffix(".compiled.json")


def program_file(data: Data, cell: Cell) -> Path:
    """Where a cell's exported program is."""
    return data.folder / "programs" / f"{cell.name}.pt2"


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(result) + "\n")


def _quiet(name: str) -> Any:
    def report(line: str) -> None:
        if "min left" in line and line.split("step ")[1].split("/")[0].endswith("00"):
            print(time.strftime("%H:%M:%S"), line, flush=True)

    return report
