from __future__ import annotations

import errno
import os
import zipfile

import pytest
import torch
from helpers.small_networks import FEATURES, compressed, lively, noise

from gq_tvm import frontend
from gq_tvm.errors import Error
from gq_tvm.models import export
from gq_tvm.models.torch_recogniser import on_numpy, recogniser
from gq_tvm.speech import Recogniser

pytestmark = pytest.mark.export


@pytest.fixture(scope="module", params=["lstm rnnt", "conformer ctc"])  # every part of all
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return compressed(name)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny.pt2"
    export.save(model, FEATURES, path, {"seed": 3})
    return path


@pytest.fixture(scope="module")
def loaded(path):
    read = frontend.read(path)
    networks = {name: on_numpy(program.module()) for name, program in read.programs.items()}
    return Recogniser(read.metadata, networks)


def test_what_is_read_back_says_the_same_also_in_a_stream(model, loaded):
    samples = noise(9000)
    expected = recogniser(model, FEATURES).transcribe(samples)
    assert len(set(expected)) > 2
    assert loaded.transcribe(samples) == expected
    session = loaded.session()
    for start in range(0, len(samples), 777):
        session.accept(samples[start : start + 777])
    assert session.finish() == expected


def test_metadata_travels(loaded, name):
    metadata = loaded.metadata
    encoder, head = name.split()
    states = {
        "lstm": {"h": [2, 1, 24], "c": [2, 1, 24]},
        "conformer": {
            "keys": [2, 1, 6, 24], "values": [2, 1, 6, 24], "past": [2, 1, 4, 24], "seen": [1, 6]
        },
    }  # fmt: skip
    assert metadata["task"] == head
    assert metadata["training"] == {"seed": 3}
    assert metadata["states"]["encoder"] == states[encoder]
    assert list(metadata["states"]["encoder"]) == list(states[encoder])  # their order counts
    assert metadata["tokens"][metadata["blank"]] == "<blank>"


def test_the_file_holds_indices_and_codebook_operators(path, name):
    programs = frontend.read(path).programs
    assert set(programs) == {"encoder"} | ({"predictor", "joint"} if "rnnt" in name else set())
    encoder = programs["encoder"]
    targets = [str(node.target) for node in encoder.graph.nodes]
    layers = {"lstm": (2, 1, 0), "conformer": (0, 2 * 10 + 2, 2)}[name.split()[0]]
    kinds = ("codebook_lstm", "codebook_linear", "codebook_conv1d")
    assert tuple(sum(kind in target for target in targets) for kind in kinds) == layers
    floats = [t for t in encoder.state_dict.values() if t.dtype == torch.float32]
    assert max(t.numel() for t in floats) <= 256  # biases, norms, codebooks, positions


def test_no_paths_of_this_machine_travel(path):
    with zipfile.ZipFile(path) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    for file in (b"/rnnt.py", b"/conformer.py", b"/lstm_encoder.py"):
        assert not any(file in content for content in contents)


def test_a_float_model_is_exported_for_any_number_of_frames(tmp_path):
    model = lively("lstm rnnt")
    export.save(model, FEATURES, tmp_path / "a.pt2")
    read = frontend.read(tmp_path / "a.pt2")
    networks = {name: on_numpy(program.module()) for name, program in read.programs.items()}
    samples = noise(9000)
    expected = recogniser(model, FEATURES).transcribe(samples)
    assert len(set(expected)) > 2
    assert Recogniser(read.metadata, networks).transcribe(samples) == expected


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    programs = {"a": torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))}
    monkeypatch.setattr(export, "programs", lambda model: programs)
    monkeypatch.setattr(export.Path, "write_bytes", full)
    with pytest.raises(Error, match=r"a\.pt2 cannot be written \(No space left on device\)"):
        export.save(compressed("conformer ctc"), FEATURES, tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


def full(path, content) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
