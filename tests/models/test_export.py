from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest
import torch

from gq_tvm import quantize
from gq_tvm.errors import Error
from gq_tvm.models import export
from gq_tvm.models.rnnt import RNNT, RNNTSettings
from gq_tvm.models.torch_recogniser import recogniser
from gq_tvm.speech import FeatureSettings

SIZES = RNNTSettings(
    encoder_size=24, encoder_layers=2, predictor_size=16, embedding_size=8, joint_size=12
)
FEATURES = FeatureSettings(mean=(-5.0,) * 40, deviation=(1.0,) * 40)


@pytest.fixture(scope="module")
def model() -> RNNT:
    torch.manual_seed(3)
    float_model = RNNT(SIZES)
    with torch.no_grad():
        for layer in (float_model.encoder.projection, float_model.predictor.projection):
            layer.weight *= 8  # else it says one token only
    compressed = quantize.compress(float_model, bits=4, overrides={"encoder.lstm.1": 2})
    assert isinstance(compressed, RNNT)
    return compressed


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny.pt2"
    export.save(model, FEATURES, path, {"seed": 3})
    return path


def samples(length: int = 12000) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, length).astype(np.float32)


def test_what_is_read_back_says_the_same(model, path):
    expected = recogniser(model, FEATURES).transcribe(samples())
    assert len(set(expected)) > 3
    assert export.load(path).transcribe(samples()) == expected


def test_streaming_with_the_exported_programs(path):
    loaded = export.load(path)
    session = loaded.session()
    for start in range(0, 12000, 777):
        session.accept(samples()[start : start + 777])
    assert session.finish() == loaded.transcribe(samples())


def test_metadata_travels(path):
    metadata = export.load(path).metadata
    assert metadata["training"] == {"seed": 3}
    assert metadata["states"]["encoder"]["h"] == [2, 1, 24]
    assert metadata["tokens"][metadata["blank"]] == "<blank>"


def test_the_file_holds_indices_and_codebook_operators(model):
    encoder = export.programs(model)["encoder"]
    targets = [str(node.target) for node in encoder.graph.nodes]
    assert sum("codebook_lstm" in target for target in targets) == 2
    assert sum("codebook_linear" in target for target in targets) == 1
    floats = [t for t in encoder.state_dict.values() if t.dtype == torch.float32]
    assert max(t.numel() for t in floats) <= 4 * SIZES.encoder_size  # biases and norms


def test_no_paths_of_this_machine_travel(path):
    with zipfile.ZipFile(path) as archive:
        assert not any(b"/rnnt.py" in archive.read(name) for name in archive.namelist())


def test_float_models_cannot_be_exported(tmp_path):
    with pytest.raises(Error, match=r"quantize\.convert"):
        export.save(RNNT(SIZES), FEATURES, tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


def test_odd_files(tmp_path):
    with pytest.raises(Error, match="no such file"):
        export.load(tmp_path / "none.pt2")
    (tmp_path / "odd.pt2").write_bytes(b"nothing of the kind")
    with pytest.raises(Error, match=r"cannot be read as a \.pt2 file"):
        export.load(tmp_path / "odd.pt2")
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "plain.pt2")
    with pytest.raises(Error, match="holds model and no recogniser"):
        export.load(tmp_path / "plain.pt2")


def test_a_damaged_file(path, tmp_path):
    content = path.read_bytes()
    (tmp_path / "cut.pt2").write_bytes(content[: os.path.getsize(path) // 2])
    with pytest.raises(Error):
        export.load(tmp_path / "cut.pt2")
