"""Training on little noises: a rising tone is 'one', a falling one 'two'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gq_tvm.errors import Error
from gq_tvm.models.data.batches import Batches, Source, augmented, log_mel_statistics
from gq_tvm.models.networks.lstm_encoder import LSTMEncoderSettings
from gq_tvm.models.networks.network import NetworkSettings, build
from gq_tvm.models.networks.rnnt import RNNT, RNNTSettings
from gq_tvm.models.training import checkpoint
from gq_tvm.models.training.trainer import Schedule, Trainer
from gq_tvm.speech import FeatureSettings
from gq_tvm.speech.augment import Augmentation
from gq_tvm.speech.corpora import Utterance

HEAD = RNNTSettings(predictor_size=8, embedding_size=8, joint_size=16)
SIZES = NetworkSettings(LSTMEncoderSettings(size=16, layers=1), HEAD)
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


def test_noise_with_an_empty_text_is_drawn_among_short_strings():
    noise = [("", word(0)), ("one", word(1))]
    drawn = Batches([Source(1.0, False, [noise])], FEATURES, seed=0, size=8)
    lengths = torch.cat([drawn.draw(step, longest=2).lengths for step in range(4)])
    assert set(lengths.tolist()) == {0, 3}


def spoken(samples: np.ndarray) -> Utterance:
    """An utterance whose recording need not be read."""
    one = Utterance(Path("a.wav"), "one", "ann")
    object.__setattr__(one, "samples", lambda rate: samples)
    return one


def test_recordings_too_short_for_a_frame_are_left_out_and_counted():
    """55 ms at 8000 Hz are 440 samples."""
    loaded = [spoken(word(0)[1000 : 1000 + length]) for length in (1, 439, 440)]
    source = Source.load(loaded, 1.0, True, FEATURES)
    drawn = Batches([source], FEATURES, seed=0, size=4)
    assert "shorter than 55 ms: 2" in drawn.about()
    with pytest.raises(Error, match=r"nothing to train on \(recordings left out, .*: 2\); give"):
        Batches([Source.load(loaded[:2], 1.0, True, FEATURES)], FEATURES, seed=0, size=4)
    assert batches().about() == ""


@pytest.mark.parametrize("length", [1, 199, 300])
def test_what_augmentation_makes_too_short_is_still_a_frame(length):
    rng = np.random.default_rng(0)
    found = augmented(word(0)[:length], FEATURES, rng, Augmentation(), masked=True)
    assert found.shape == (1, FEATURES.size)
    assert np.isfinite(found).all()


def test_statistics_of_silence_are_refused_and_those_of_a_silent_band_are_not_0():
    with pytest.raises(Error, match="the recordings to train on are silent or too short"):
        log_mel_statistics([np.zeros(800, np.float32), word(0)[:10]], FEATURES)
    low = FeatureSettings(sample_rate=16000, high_hz=7600.0)
    silent = np.fft.rfft(word(0))
    silent[len(silent) // 4 :] = 0
    mean, deviation = log_mel_statistics([np.fft.irfft(silent).astype(np.float32)], low)
    assert min(deviation) >= 0.01
    assert np.isfinite(mean).all()


@pytest.mark.training
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


def test_a_stopped_training_keeps_its_last_whole_step(tmp_path):
    path = tmp_path / "a.safetensors"
    one = trainer(path, save_every=100)
    draw = one.batches.draw

    def stop_at_the_third(step, longest=None, masked=True):
        one.stopping = step == 2
        return draw(step, longest, masked)

    one.batches.draw = stop_at_the_third  # type: ignore[method-assign]
    one.run()
    tensors, description = checkpoint.load(path)
    assert description["step"] == one.step == 3
    assert torch.equal(
        tensors["model.joint.output.bias"], one.model.state_dict()["joint.output.bias"]
    )


def test_a_recording_that_cannot_be_read_costs_no_step(tmp_path):
    one = trainer(tmp_path / "a.safetensors", save_every=100)
    draw = one.batches.draw

    def unreadable_at_the_third(step, longest=None, masked=True):
        if step == 2:
            raise Error("a.flac cannot be read as audio")
        return draw(step, longest, masked)

    one.batches.draw = unreadable_at_the_third  # type: ignore[method-assign]
    with pytest.raises(Error, match=r"a\.flac"):
        one.run()
    assert checkpoint.load(tmp_path / "a.safetensors")[1]["step"] == 2


def test_a_loss_that_is_no_number_stops_the_training():
    one = trainer()
    assert isinstance(one.model, RNNT)
    with torch.no_grad():
        one.model.joint.output.bias.fill_(torch.nan)
    with pytest.raises(Error, match=r"loss is nan at step 0; .* fp32\.initial=CHECKPOINT"):
        one.run()


@pytest.mark.parametrize("phase", ["fp32", "quantised"])
def test_a_gradient_that_is_no_number_stops_before_the_step(phase):
    one = trainer()
    one.phase = phase
    one.run(2)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    parameter = next(one.model.parameters())
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    cure = "start_from" if phase == "quantised" else "initial"
    with pytest.raises(
        Error, match=rf"{phase}: the gradient's norm is .* at step 2; .* fp32\.{cure}"
    ):
        one.run()
    assert one.step == 2
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_checkpoints_of_other_models_and_odd_files(tmp_path):
    path = tmp_path / "a.safetensors"
    trainer(path).run(1)
    tensors, _ = checkpoint.load(path)
    sizes = replace(SIZES, head=replace(HEAD, joint_size=8))
    other = Trainer(build(sizes), batches(), Schedule(steps=8), 0, report=print)
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
    with pytest.raises(Error, match="no space left on device"):
        checkpoint.save(path, {"a": torch.zeros(3)}, {"step": 2})
    tensors, description = checkpoint.load(path)
    assert (tensors["a"].tolist(), description["step"]) == ([1.0] * 3, 1)
    assert list(tmp_path.iterdir()) == [path]
