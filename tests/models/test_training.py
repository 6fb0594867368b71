"""Training on little noises: a rising tone is 'one', a falling one 'two'."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gq_tvm import train as command
from gq_tvm.errors import Error
from gq_tvm.models import checkpoint, export
from gq_tvm.models.batches import Batches, Source
from gq_tvm.models.digits_training import DigitTraining, train
from gq_tvm.models.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.network import NetworkSettings, build
from gq_tvm.models.recipe import DigitRecipe
from gq_tvm.models.rnnt import RNNTSettings
from gq_tvm.models.training import Schedule, Trainer
from gq_tvm.speech import FeatureSettings, audio, decoding

HEAD = RNNTSettings(predictor_size=8, embedding_size=8, joint_size=16)
SIZES = NetworkSettings(encoder=LSTMEncoderSettings(size=16, layers=1), head=HEAD)
FEATURES = FeatureSettings(mean=(-5.0,) * 40, deviation=(1.0,) * 40)


def word(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([number, seed])
    times = np.arange(2400) / 8000
    sweep = np.sin(2 * np.pi * (500 + (1 if number else -1) * 800 * times) * times)
    return (0.2 * sweep + rng.normal(0, 0.01, 2400)).astype(np.float32)


def batches() -> Batches:
    voice = [("one", word(0)), ("two", word(1))]
    return Batches([Source(1.0, True, [voice])], FEATURES, seed=0, size=4)


def trainer(path=None, **changes) -> Trainer:
    torch.manual_seed(0)
    schedule = replace(Schedule(steps=8, warmup=2, save_every=3), **changes)
    return Trainer(build(SIZES), batches(), schedule, 0, path=path, report=lambda line: None)


def test_batches_repeat_and_differ():
    first, again, other = batches().draw(3), batches().draw(3), batches().draw(4)
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.tokens, again.tokens)
    assert first.features.shape != other.features.shape or not torch.equal(
        first.features, other.features
    )
    assert first.frames.max() == first.features.shape[1]
    assert first.lengths.max() == first.tokens.shape[1]


@pytest.mark.slow
def test_training_lowers_the_loss():
    lines: list[str] = []
    torch.manual_seed(0)
    schedule = Schedule(steps=100, warmup=10, learning_rate=1e-2)
    Trainer(build(SIZES), batches(), schedule, 0, report=lines.append).run()
    first, last = (float(line.split("loss ")[1].split()[0]) for line in (lines[0], lines[-1]))
    assert last < 0.7 * first
    assert "min left" in lines[0]


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    whole = trainer()
    whole.run()
    begun = trainer(tmp_path / "a.safetensors")
    begun.run(5)
    resumed = trainer()
    tensors, description = checkpoint.load(tmp_path / "a.safetensors")
    resumed.restore(tensors, description["step"])
    assert resumed.step == 5
    resumed.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_loss_that_is_no_number_stops_the_training():
    one = trainer()
    with torch.no_grad():
        one.model.get_parameter("joint.output.bias").fill_(torch.nan)
    with pytest.raises(Error, match="at step 0"):
        one.run()


def test_checkpoints_of_other_models_and_odd_files(tmp_path):
    path = tmp_path / "a.safetensors"
    trainer(path).run(1)
    tensors, _ = checkpoint.load(path)
    other = Trainer(
        build(replace(SIZES, head=replace(HEAD, joint_size=8))),
        batches(),
        Schedule(steps=8),
        0,
        report=print,
    )
    with pytest.raises(Error, match="holds another model"):
        other.restore(tensors, 1)
    with pytest.raises(Error, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(Error, match=r"no checkpoint of gq_tvm\.train"):
        checkpoint.load(path)


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"a": torch.ones(3)}, {"step": 1})

    def full_disk(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"a": torch.zeros(3)}, {"step": 2})
    tensors, description = checkpoint.load(path)
    assert (tensors["a"].tolist(), description["step"]) == ([1.0] * 3, 1)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for speaker in ("ann", "bob", "eve"):
        for digit in range(2):
            audio.write(folder / f"{digit}_{speaker}_0.wav", word(digit), 8000)
    return folder


def settings(tmp_path, recordings) -> DigitTraining:
    return DigitTraining(
        recordings,
        tmp_path / "out" / "digits",
        tmp_path / "cache",
        recipe=DigitRecipe(("ann",), ("bob",), ("eve",), voices=0, joined=5),
        sizes=SIZES,
        batch=4,
        fp32=Schedule(steps=6, evaluate_every=4, save_every=2),
        gq=Schedule(steps=6, evaluate_every=4, save_every=2),
        overrides={"encoder.lstm.*": 2},
    )


@pytest.mark.slow
def test_from_recordings_to_the_exported_file(tmp_path, recordings, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_TOKENS_PER_FRAME", 1)  # untrained, it never says blank
    chosen = settings(tmp_path, recordings)
    lines: list[str] = []
    report = train(chosen, "the command", lines.append)
    written = json.loads((tmp_path / "out/digits.json").read_text())
    assert written == report
    assert set(written["word_error_rate_percent"]["gq"]) == {
        "development isolated", "development joined", "test isolated", "test joined",
    }  # fmt: skip
    bits = {layer["name"]: layer["bits"] for layer in written["layers"]}
    assert bits["encoder.lstm.0.weight_ih_l0"] == 2
    assert bits["joint.output.weight"] == 4
    assert not any("auxiliary" in name for name in bits)
    assert isinstance(export.load(tmp_path / "out/digits.pt2").transcribe(word(0)), str)
    assert any("WER" in line for line in lines)

    # A second start finds both trainings done; with other options it refuses.
    lines.clear()
    again = train(replace(chosen, resume=True), "the command", lines.append)
    assert [line for line in lines if "resumed" in line] == [
        "fp32  resumed at step 6",
        "gq  resumed at step 6",
    ]
    assert again["word_error_rate_percent"] == report["word_error_rate_percent"]
    with pytest.raises(Error, match="other options"):
        train(replace(chosen, resume=True, seed=2), "the command", lines.append)

    # The float weights can be trained further.
    further = replace(chosen, output=tmp_path / "more", initial=chosen.fp32_checkpoint)
    assert train(further, "", lines.append)["steps"] == {"fp32": 12, "gq": 6}
    with pytest.raises(Error, match="no float weights"):
        train(replace(chosen, start_from=chosen.gq_checkpoint), "", lines.append)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recordings", "no-such-folder"], "no such folder"),
        (["--recordings", "."], "DIGIT_SPEAKER_TAKE"),
    ],
)
def test_the_command_refuses_in_a_sentence(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    assert command.main([*options, "--output", "x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--override=joint", "--bits=9", "--steps=0", "--also=x"])
def test_the_command_refuses_odd_options(option, capsys):
    assert command.main(["--recordings", ".", "--output", "x", option]) == 2
    assert option.partition("=")[0] in capsys.readouterr().err
