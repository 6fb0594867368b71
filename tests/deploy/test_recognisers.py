"""Bundles of Conformers and of CTC: the text of PyTorch, here and on an emulated board."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.bundled import replanned, run
from helpers.small_networks import FEATURES, chunks, compressed, noise

import gq_tvm
from gq_tvm import deploy
from gq_tvm.build import build
from gq_tvm.models import export
from gq_tvm.models.torch_recogniser import recogniser
from gq_tvm.recognition import recogniser_of
from gq_tvm.runtime.devices import board
from gq_tvm.speech import Recogniser, audio

pytestmark = pytest.mark.native


def written(name: str, folder: Path) -> tuple[Recogniser, str]:
    """Write the file of a network and a recording; return it in PyTorch and what it hears."""
    model = compressed(name)
    export.save(model, FEATURES, folder / "model.pt2")
    audio.write(folder / "noise.wav", noise(), 8000)
    there = recogniser(model, FEATURES)
    return there, there.transcribe(audio.read(folder / "noise.wav", 8000))


@pytest.fixture(scope="module")
def ctc(tmp_path_factory) -> tuple[Path, str]:
    """A folder with the file of a CTC model, its bundle and a recording, and the text of that."""
    folder = tmp_path_factory.mktemp("ctc")
    _, text = written("lstm ctc", folder)
    deploy.write(build(folder / "model.pt2"), folder / "bundle")
    return folder, text


def test_ctc_says_what_pytorch_says(ctc):
    folder, text = ctc
    recording = folder / "noise.wav"
    done = run(folder / "bundle" / "gq-run", recording, recording)
    assert done.stdout.splitlines() == [text, text], done.stderr  # the second begins afresh
    assert len(set(text)) > 2
    assert "./gq-run recording.wav" in (folder / "bundle" / "README.md").read_text()


@pytest.mark.emulated
def test_an_emulated_cortex_a53_says_the_same(emulated, tmp_path):
    connection = emulated("cortex-a53")  # skips where there is no emulator
    there, text = written("conformer ctc", tmp_path)
    artefact = build(tmp_path / "model.pt2", target="cortex-a53")
    artefact.save(tmp_path / "model.gq")
    here = recogniser_of(gq_tvm.load(tmp_path / "model.gq", connection), "model.gq")
    assert chunks(here, noise()) == chunks(there, noise())

    deploy.write(artefact, tmp_path / "bundle")
    emulator = board.locate().emulator("aarch64", "cortex-a53")
    done = run(*emulator, tmp_path / "bundle" / "gq-run", tmp_path / "noise.wav")
    assert done.stdout.splitlines() == [text], done.stderr


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("task ctc", "task rnnt", "there is no function predictor; the model has encoder"),
        ("metadata tokens ", "metadata tokens x ", "scores 29 tokens and names 30"),
    ],
)
def test_networks_that_do_not_fit_are_one_sentence(ctc, tmp_path, old, new, reason):
    folder, _ = ctc
    changed = replanned(folder / "bundle", tmp_path, lambda text: text.replace(old, new))
    done = run(folder / "bundle" / "gq-run", "--bundle", changed, folder / "noise.wav")
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
