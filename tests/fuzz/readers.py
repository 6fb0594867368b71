"""Every reader of ours: its good files, what is changed in them, and how it is called."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fuzz import formats, good_files, good_onnx
from fuzz.changes import Change, any_of, in_header, in_json, in_lines, in_zip
from gq_tvm import inspect, records
from gq_tvm.errors import Error
from gq_tvm.exported.inputs import Input, read_arrays
from gq_tvm.frontend import read as read_program
from gq_tvm.models.configuration import config, config_file
from gq_tvm.models.training import checkpoint
from gq_tvm.onnx_import import Options, graph_file
from gq_tvm.onnx_import import read as read_onnx
from gq_tvm.onnx_import.module import GraphModule
from gq_tvm.quantize.allocation.overrides import read_overrides
from gq_tvm.runtime.artefact import folder, weights
from gq_tvm.speech import audio, corpora
from gq_tvm.speech.description import RecogniserDescription
from gq_tvm.weight_files import read_weights

_RATE = 8000
_INPUTS = [Input("x", "float32", ("n", 4)), Input("ids", "int64", ("n",))]


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        name: Of the format.
        file: What a file of it is called in its folder.
        good: Makes good files; what else they need lies in the folder then.
        change: Makes another file of one.
        read: Reads the file of a path, and raises `Error` where it is none.
        share: How much of the time it gets, against others.
        memory: Bytes it may take whatever the size of the file; what follows from an odd rate of
            samples or from the sizes of inputs is bounded, but much.
    """

    name: str
    file: str
    good: Callable[[Path], list[bytes]]
    change: Change
    read: Callable[[Path], object]
    share: int = 1
    memory: int = 96 << 20


def _onnx(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.stat().st_size % 8:  # an export takes fifty times as long
            with torch.no_grad():
                GraphModule(graph_file.read(path))
        else:
            read_onnx(path, Options(compare=False))


def _artefact(path: Path) -> None:
    manifest, plan = folder.read(path.parent)
    folder.check_files(path.parent, plan)
    inspect.report(manifest, plan)
    inspect._as_json(manifest, plan, str(path.parent))


def _recording(path: Path) -> None:
    audio.read(path, _RATE, lambda text: None)
    audio.duration(path)


def _description(path: Path) -> None:
    try:
        RecogniserDescription.read(records.loads(path.read_bytes()))
    except records.Wrong as wrong:  # whoever reads the file names it
        raise Error(str(wrong)) from None


def _manifests(folder: Path) -> list[bytes]:
    good_files.plans(folder)
    return good_files.manifests()


def _descriptions(folder: Path) -> list[bytes]:
    return [json.dumps(good_files.recogniser().to_dict()).encode()]


def _configurations(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(config_file.SHIPPED.glob("*.toml"))]


def _checkpoints(folder: Path) -> list[bytes]:
    checkpoint.save(folder / "a", {"w": torch.ones(2, 3)}, {"step": 3})
    return [(folder / "a").read_bytes()]


READERS = {
    one.name: one
    for one in (
        Reader(
            "pt2", "a.pt2", good_files.programs, any_of(formats.in_pt2()), read_program, 4
        ),
        Reader("onnx", "a.onnx", good_onnx.files, any_of(formats.in_onnx), _onnx, 8, 2 << 30),
        Reader("gguf", "a.gguf", good_files.gguf_files, any_of(formats.in_gguf), read_weights, 2),
        Reader(
            "safetensors", "a.safetensors", good_files.safetensors_files, any_of(in_header),
            read_weights, 2,
        ),
        Reader("plan", folder.PLAN, good_files.plans, any_of(formats.in_plan), _artefact, 2),
        Reader("manifest", folder.MANIFEST, _manifests, any_of(in_json), _artefact),
        Reader(
            "weights", folder.WEIGHTS, good_files.weight_files, any_of(in_header), weights.mapped
        ),
        Reader(
            "wav", "a.wav", good_files.recordings, any_of(formats.in_wav), _recording, 2, 512 << 20
        ),
        Reader(
            "npz", "a.npz", good_files.arrays, any_of(in_zip(lambda name: formats.in_npy, True)),
            lambda path: read_arrays(path, {"main": _INPUTS}), 2,
        ),
        Reader(
            "corpus", "a.jsonl", lambda folder: good_files.lists_of_recordings(),
            any_of(in_lines, in_json), corpora.manifest,
        ),
        Reader("description", "a.json", _descriptions, any_of(in_json), _description),
        Reader("checkpoint", "a.safetensors", _checkpoints, any_of(in_header), checkpoint.load),
        Reader(
            "configuration", "a.toml", _configurations, any_of(in_lines),
            lambda path: config.read(str(path), ("folders.fsdd=.", "folders.librispeech=.")),
        ),
        Reader(
            "allocation", "a.toml",
            lambda folder: [b"[quantise.overrides]\n\"a.weight\" = 4\n'b' = 32\n"],
            any_of(in_lines), read_overrides,
        ),
    )
}  # fmt: skip
