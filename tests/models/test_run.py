"""A training from its configuration to the file: rising tones are 'one', falling ones 'zero'."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from gq_tvm import frontend
from gq_tvm import train as command
from gq_tvm.errors import Error
from gq_tvm.models import export
from gq_tvm.models.configuration.config import read
from gq_tvm.models.data import loading as data
from gq_tvm.models.data.batches import Batches
from gq_tvm.models.training import checkpoint, run
from gq_tvm.models.training.evaluation import Rate
from gq_tvm.models.training.run import train
from gq_tvm.models.training.trainer import Trainer
from gq_tvm.speech import audio, decoding

CONFIG = """
output = "out/digits"
[folders]
fsdd = "recordings"
[model.encoder]
size = 16
layers = 1
[model.head]
predictor_size = 8
embedding_size = 8
joint_size = 16
[[corpus]]
kind = "fsdd"
speakers = ["ann"]
joined = true
[[corpus]]
role = "development"
kind = "fsdd"
speakers = ["bob"]
joined = true
[[corpus]]
role = "test"
name = "strangers"
kind = "manifest"
file = "test.jsonl"
[batches]
size = 4
[evaluation]
joined = 3
[fp32]
steps = 6
evaluate_every = 4
save_every = 2
[quantise]
steps = 6
evaluate_every = 4
save_every = 2
distillation = 0.5
[quantise.overrides]
"encoder.lstm.*" = 2
"""


def word(number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([number, seed])
    times = np.arange(2400) / 8000
    sweep = np.sin(2 * np.pi * (500 + (1 if number else -1) * 800 * times) * times)
    return (0.2 * sweep + rng.normal(0, 0.01, 2400)).astype(np.float32)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(decoding, "MAX_TOKENS_PER_FRAME", 1)  # untrained, it never says blank
    monkeypatch.setattr(data, "STATISTICS", 5)
    folder = tmp_path / "recordings"
    folder.mkdir()
    for speaker in ("ann", "bob", "eve"):
        for digit in range(2):
            audio.write(folder / f"{digit}_{speaker}_0.wav", word(digit), 8000)
    lines = [{"path": f"recordings/{n}_eve_0.wav", "text": ("zero", "one")[n]} for n in range(2)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def state(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path)[0]


def write_a_byte(model, features, path, summary) -> None:
    """For tests of something else: exporting takes seconds."""
    path.write_bytes(b"x")


@pytest.mark.training
def test_from_the_configuration_to_the_exported_file(config, monkeypatch):
    lines: list[str] = []
    found = read(str(config))
    report = train(found, "the command", report=lines.append)
    out = config.parent / "out"
    assert json.loads((out / "digits.json").read_text()) == report
    for kind in ("fp32", "quantised"):
        rates = report["word_error_rate_percent"][kind]
        assert list(rates) == ["development isolated", "development joined", "strangers"]
        for name, (low, high) in report["word_error_rate_interval_percent"][kind].items():
            assert low <= rates[name] <= high
    bits = {layer["name"]: layer["bits"] for layer in report["layers"]}
    assert bits["encoder.lstm.0.weight_ih_l0"] == 2
    assert bits["joint.output.weight"] == 4
    assert not any("auxiliary" in name for name in bits)
    assert [one["utterances"] for one in report["corpora"]] == [2, 2, 2]
    assert {"encoder", "joint"} <= frontend.read(out / "digits.pt2").programs.keys()
    assert any("WER development isolated" in line for line in lines)
    assert str(config.parent) not in json.dumps(report)  # no path of this machine

    monkeypatch.setattr(export, "save", write_a_byte)
    # A second start refuses, or finds both trainings done; with other values it refuses.
    with pytest.raises(Error, match=r"fp32\.safetensors exists; go on with --resume"):
        train(found, "", report=lines.append)
    lines.clear()
    again = train(found, "the command", resume=True, report=lines.append)
    assert [line for line in lines if "resumed" in line] == [
        "fp32  resumed at step 6",
        "quantised  resumed at step 6",
    ]
    assert again["word_error_rate_percent"] == report["word_error_rate_percent"]
    for change, named in {"seed=2": "seed", "quantise.bits=3": "quantise"}.items():
        with pytest.raises(Error, match=rf"another configuration \({named}\)"):
            train(read(str(config), [change]), "", resume=True, report=lines.append)

    # The float weights can be trained further, or taken as they are.
    start = found.fp32_checkpoint
    further = [f"fp32.initial={start}", f"output={out}/more", "fp32.steps=4"]
    assert train(read(str(config), further), "", report=lines.append)["steps"] == {
        "fp32": 10,
        "quantised": 6,
    }
    reset = config.read_text().replace("steps = 6\nevaluate_every = 4\nsave_every = 2\n", "", 1)
    config.write_text(reset)
    taken = [f"fp32.start_from={start}", f"output={out}/taken"]
    assert train(read(str(config), taken), "", report=lines.append)["steps"]["fp32"] == 6
    other = read(str(config), [*taken, f"output={out}/other", "model.head.joint_size=8"])
    with pytest.raises(Error, match="another model"):
        train(other, "", report=lines.append)
    quantised = [f"fp32.start_from={found.quantised_checkpoint}", f"output={out}/other"]
    with pytest.raises(Error, match="no float weights"):
        train(read(str(config), quantised), "", report=lines.append)


@pytest.mark.training
@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(config, monkeypatch, capsys):
    interrupts = {("fp32", 2), ("quantised", 2)}
    step = Trainer._one_step

    def interrupt_in_the_middle(self):
        if (self.phase, self.step) in interrupts:
            interrupts.remove((self.phase, self.step))
            os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    monkeypatch.chdir(config.parent)
    monkeypatch.setattr(export, "save", write_a_byte)
    monkeypatch.setattr(Trainer, "_one_step", interrupt_in_the_middle)
    assert command.main([str(config)]) == 130
    stopped = "{}  stopped at step 3/6, the checkpoint is written; the same command with --resume"
    assert stopped.format("fp32") in capsys.readouterr().out
    assert command.main([str(config), "--resume"]) == 130
    assert stopped.format("quantised") in capsys.readouterr().out
    assert command.main([str(config), "--resume"]) == 0
    assert command.main([str(config), "--set", "output=whole"]) == 0
    for name in ("fp32", "quantised"):
        expected = state(config.parent / f"whole-{name}.safetensors")
        found = state(config.parent / f"out/digits-{name}.safetensors")
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert torch.equal(value, found[key]), key


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """Evaluation stubbed: the sets heard, and what batches the phases were given."""
    names: list[str] = []
    with_seed = Batches.with_seed

    def listen(recogniser, sets):
        names.extend(sets)
        return {name: Rate(0.0, (0.0, 0.0)) for name in sets}

    def spied(self, seed, fresh):
        names.append(f"training, fresh {fresh}")
        return with_seed(self, seed, fresh)

    monkeypatch.setattr(run, "evaluate", listen)
    monkeypatch.setattr(Batches, "with_seed", spied)
    monkeypatch.setattr(export, "save", write_a_byte)
    return names


SHORT = ["fp32.steps=1", "quantise.steps=1"]
DEVELOPMENT = ["development isolated", "development joined"]


def test_the_test_set_is_heard_at_the_end_and_weights_are_fresh_once(config, heard):
    found = read(str(config), SHORT)
    train(found, "", fp32_only=True, report=heard.append)
    told = [line for line in heard if line in ("strangers", *DEVELOPMENT)]
    assert told == DEVELOPMENT
    heard.clear()
    report = train(found, "", resume=True, report=lambda line: None)
    phases = ["training, fresh True", *DEVELOPMENT, "training, fresh False", *DEVELOPMENT]
    assert heard == [*phases, "strangers", "strangers"]
    for rates in report["word_error_rate_percent"].values():
        assert list(rates) == [*DEVELOPMENT, "strangers"]
    heard.clear()
    further = [*SHORT, f"fp32.initial={found.fp32_checkpoint}", f"output={config.parent}/b"]
    train(read(str(config), further), "", fp32_only=True, report=lambda line: None)
    assert heard[0] == "training, fresh False"


LIBRISPEECH = """
output = "out/libri"
[folders]
librispeech = "LibriSpeech"
[features]
sample_rate = 16000
num_mel_bins = 80
high_hz = 7600
[model.encoder]
kind = "conformer"
size = 16
layers = 1
[model.head]
kind = "ctc"
[[corpus]]
kind = "librispeech"
folder = "train-clean-100"
[[corpus]]
role = "test"
name = "test-clean"
kind = "librispeech"
folder = "test-clean"
[batches]
kind = "utterances"
seconds = 4
[fp32]
steps = 4
"""


def test_whole_utterances_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "STATISTICS", 2)
    for part in ("train-clean-100", "test-clean"):
        chapter = tmp_path / "LibriSpeech" / part / "7" / "11"
        chapter.mkdir(parents=True)
        lines = []
        for number, length in enumerate((1.0, 1.5, 0.2)):
            samples = np.random.default_rng(number).normal(0, 0.1, round(16000 * length))
            audio.write(chapter / f"7-11-{number:04d}.flac", samples, 16000)
            lines.append(f"7-11-{number:04d} IT'S A TEST")
        (chapter / "7-11.trans.txt").write_text("\n".join(lines))
    path = tmp_path / "libri.toml"
    path.write_text(LIBRISPEECH)
    lines = []
    found = train(read(str(path)), "", fp32_only=True, report=lines.append)
    assert found["word_error_rate_percent"] == {"fp32": {}}  # the test set is not heard
    assert [name.name for name in (tmp_path / "out").iterdir()] == ["libri-fp32.safetensors"]
    assert any("2 of 3 utterances are 0.5 to 17 seconds long" in line for line in lines), lines


def test_what_a_check_says(config, capsys):
    assert command.main([str(config), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "encoder.lstm.0.weight_ih_l0" in printed
    assert "2 utterances" in printed
    assert "6 steps in fp32, then 6 steps with quantised weights" in printed
    assert not (config.parent / "out").exists()


def test_recordings_that_do_not_fit_in_memory(config, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY", 1000)
    found = read(str(config))
    with pytest.raises(Error, match=r'set batches.kind = "utterances" to read them from disk'):
        data.supply(found, data.recordings(found), 1)


def test_texts_that_have_no_tokens_are_refused_before_training(config):
    (config.parent / "test.jsonl").write_text('{"audio": "a.wav", "text": "50%"}')
    with pytest.raises(Error, match=r"corpus strangers: the text '50%' holds '5'"):
        data.recordings(read(str(config)))


def test_an_output_that_cannot_be_written(config):
    (config.parent / "out").write_text("a file")
    with pytest.raises(Error, match="choose another output"):
        train(read(str(config)), "", report=print)
