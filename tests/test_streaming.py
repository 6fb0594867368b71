"""Streaming Conformers from PyTorch to text on this machine; see also tests/deploy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_networks import FEATURES, chunks, compressed, noise

import gq_tvm
from gq_tvm import inspect, profile, transcribe, verify
from gq_tvm.models import export
from gq_tvm.models.torch_recogniser import recogniser
from gq_tvm.speech import audio

pytestmark = pytest.mark.export

NETWORKS = [("conformer ctc", "int8"), ("conformer rnnt", "fp32")]


@pytest.fixture(scope="module", params=NETWORKS, ids="-".join)
def network(request, tmp_path_factory) -> Any:
    """The network, and a folder with its file, what this machine runs and a recording."""
    name, activation = request.param
    folder = tmp_path_factory.mktemp("network")
    model = compressed(name, activation)
    export.save(model, FEATURES, folder / "model.pt2")
    gq_tvm.build(folder / "model.pt2").save(folder / "model.gq")
    audio.write(folder / "noise.wav", noise(), 8000)
    return model, folder


def test_text_is_that_of_pytorch_chunk_by_chunk(network):
    model, folder = network
    here = transcribe.recogniser_of(gq_tvm.load(folder / "model.gq"), "model.gq")
    there = recogniser(model, FEATURES)
    texts = chunks(there, noise())
    assert len(set(texts)) > 3
    assert chunks(here, noise()) == texts
    assert here.transcribe(noise()) == texts[-1]  # in one call of many frames


def test_scores_and_states_are_those_of_pytorch(network):
    model, folder = network
    encoder = gq_tvm.load(folder / "model.gq")["encoder"]
    rng = np.random.default_rng(0)
    state = [np.zeros(shape, np.float32) for shape in model.state_shapes()["encoder"].values()]
    for frames in (4, 1, 9, 4):  # shorter and longer than the context
        x = rng.standard_normal((1, frames, model.features)).astype(np.float32)
        got = encoder(x, *state)
        with torch.inference_mode():
            wanted = model.encoder(*map(torch.from_numpy, (x, *state)))
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.shape == theirs.shape
            # An input on the edge between two of 127 steps may fall to either side.
            np.testing.assert_allclose(mine, theirs.numpy(), atol=0.1)
            assert np.median(np.abs(mine - theirs.numpy())) < 1e-5
        state = list(got[1:])


def test_commands(network, capsys):
    model, folder = network
    artefact, recording = str(folder / "model.gq"), str(folder / "noise.wav")
    text = recogniser(model, FEATURES).transcribe(audio.read(recording, 8000))
    assert transcribe.main([artefact, recording]) == 0
    assert text in capsys.readouterr().out
    assert inspect.main([artefact]) == 0
    out = capsys.readouterr().out
    assert all(layer.name in out for layer in gq_tvm.load(artefact).layers)
    assert profile.main([artefact, "--rounds", "1"]) == 0
    assert "encoder" in capsys.readouterr().out
    assert verify.main([str(folder / "model.pt2"), artefact]) == 0
