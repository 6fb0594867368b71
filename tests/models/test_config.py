"""Configurations: what is read, and the one sentence for each mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gq_tvm import train as command
from gq_tvm.errors import Error
from gq_tvm.models.configuration import config, config_file
from gq_tvm.models.configuration.config import read
from gq_tvm.models.data.utterance_batches import Limits
from gq_tvm.models.networks.conformer import ConformerSettings
from gq_tvm.models.networks.network import build
from gq_tvm.models.training.dry_run import prepared
from gq_tvm.quantize import describe
from gq_tvm.speech.corpora import DIGITS

SMALL = """
output = "out/digits"
[model.encoder]
size = 16
[folders]
fsdd = "recordings"
[[corpus]]
kind = "fsdd"
joined = true
[[corpus]]
kind = "synthetic"
words = ["YES", "no"]
voices = 3
joined = true
share = 0.5
[[corpus]]
kind = "manifest"
file = "test.jsonl"
role = "test"
[quantise]
bits = 2
distillation = 1
[quantise.overrides]
"encoder.lstm.0" = 3
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text("\ufeff" + SMALL)  # as Windows editors write it
    return path


def test_what_is_read(small):
    found = read(str(small), ["fp32.steps=7", "quantise.overrides={'joint' = 8}", "seed=3"])
    assert found.output == small.parent / "out" / "digits"
    assert found.fp32_checkpoint.name == "digits-fp32.safetensors"
    first, second, third = found.corpora
    assert first.source == small.parent / "recordings"
    assert (second.words, second.count, second.share) == (("yes", "no"), 3, 0.5)
    assert (third.name, third.role, third.share) == ("test", "test", 1.0)
    assert found.network.encoder.size == 16
    assert found.network.features == found.features.size == 160
    assert found.fp32.schedule is not None
    assert found.fp32.schedule.steps == 7
    assert found.quantise.options == {"bits": 2, "activation": "int8", "overrides": {"joint": 8}}
    assert found.quantise.distillation == 1.0
    assert found.quantise.schedule.steps == 1200
    assert found.seed == 3


def test_paths_in_changes_start_here(small, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    found = read(str(small), ["folders.fsdd=a", "output=b", "corpus.2.file=c"])
    assert found.corpora[0].source == here / "a"
    assert found.output == here / "b"
    assert found.corpora[2].source == here / "c"


def test_a_corpus_stays_in_the_folder_of_its_kind(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ["corpus.0.folder=dev", "folders.fsdd=a"]
    for given in (changes, changes[::-1]):
        assert read(str(small), given).corpora[0].source == tmp_path / "a" / "dev"
    found = read(str(small), ["corpus.0.folder=dev"])
    assert found.corpora[0].source == tmp_path / "recordings" / "dev"
    small.write_text(SMALL.replace('[folders]\nfsdd = "recordings"', ""))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = read(str(small), ["corpus.0.folder=dev"])
    assert found.corpora[0].source == tmp_path / "here" / "dev"
    found = read(str(small), ["corpus.0.folder=dev", "corpus.0.kind=librispeech", "folders.fsdd=a"])
    assert found.corpora[0].source == tmp_path / "here" / "dev"


def test_quoted_keys_in_changes(small):
    changes = [
        """quantise.overrides."joint.output"=8""",
        """quantise . overrides.'encoder.lstm.*' = 2""",
        """quantise.overrides."odd=name"=3""",
    ]
    expected = {"encoder.lstm.0": 3, "joint.output": 8, "encoder.lstm.*": 2, "odd=name": 3}
    assert read(str(small), changes).quantise.options["overrides"] == expected
    assert read(str(small), ["output=a=b.c"]).output.name == "a=b.c"


def test_an_allocation_comes_last(small):
    (small.parent / "bits.toml").write_text(
        "[quantise.overrides]\n'joint.output.weight' = 2\n'encoder.lstm.0' = 1\n"
    )
    given = "quantise.overrides={'joint.output.weight' = 4, 'encoder.lstm.0' = 5, 'joint.*' = 8}"
    found = read(str(small), [given, f"quantise.allocation={small.parent}/bits.toml"])
    assert list(found.quantise.options["overrides"].items()) == [
        ("joint.*", 8), ("joint.output.weight", 2), ("encoder.lstm.0", 1),
    ]  # fmt: skip
    bits = {one.name: one.bits for one in describe(prepared(found, build(found.network)))}
    assert bits["joint.output.weight"] == 2


MISTAKES = {
    "fp32.step=7": "fp32.step, which means nothing; use steps",
    "fp32.steps=0": r"fp32\.steps must be a whole number of 1 or more, not 0",
    "fp32.clip=inf": r"fp32\.clip must be a number",
    "fp32.learning_rate=nan": r"fp32\.learning_rate must be a number",
    "fp32.steps=2.5": r"fp32\.steps must be a whole number",
    "fp32.steps=true": r"fp32\.steps must be a whole number of 1 or more, not True",
    "fp32.learning_rate='big'": r"fp32\.learning_rate must be a number",
    "fp32.curriculum=[0.1]": r"fp32\.curriculum must be two numbers in brackets",
    "fp32.curriculum=[0.1, 3]": r"at most 1, not 3",
    "fp32=5": "fp32 must be a table, not 5",
    "fp32.start_from=a.safetensors": None,
    "seed=-1": "seed must be a whole number of 0 or more",
    "model.encoder.kind=gru": r"model: there is no encoder 'gru'",
    "model.encoder.sise=3": r"model: the encoder 'lstm' has no 'sise'",
    "model.size=3": r"model\.size, which means nothing",
    "model.head=3": r"model\.head must be a table",
    "features.stack=0": r"features\.stack must be",
    "features.high_hz=5000": "at most half the sample rate",
    "features.num_mel_bins=200": r"features\.num_mel_bins must be 3 or more, and few enough for",
    "features.frame_shift_ms=50": r"features\.frame_shift_ms must be from frame_length_ms / 32 to",
    "model.head.kind={a = 1}": "there is no head {'a': 1}; choose from",
    "seed=9223372036854775808": "seed must be a whole number of 0 or more and of at most 922337203",
    "corpus.0.kind=tedlium": r"corpus\.0\.kind must be one of fsdd, librispeech",
    "corpus.0.role=dev": r"corpus\.0\.role must be one of train",
    "corpus.0.speakers=ann": r"corpus\.0\.speakers must be a list",
    "corpus.1.count=3": r"corpus\.1\.count, which means nothing",
    "corpus.7.role=test": "choose a table from 0 to 2, not '7'",
    "corpus=[]": 'no \\[\\[corpus\\]\\] with role = "train"',
    "corpus.2.role=train": 'no \\[\\[corpus\\]\\] with role = "test"',
    "batches.kind=bulk": r"batches\.kind must be one of strings, utterances",
    "batches.seconds=7": r"batches\.seconds, which means nothing",
    "batches.kind=utterances": "has joined, which batches of whole utterances do not know",
    "augmentation.speed=[1.2, 0.8]": "a smaller and a larger number",
    "quantise.bit=3": r"quantise\.bit, which means nothing; use bits",
    "quantise.per_row=1": r"quantise\.per_row must be true or false",
    "quantise.overrides=3": r"quantise\.overrides must be a table of bits by pattern",
    "quantise.overrides.joint.output=8": "put a pattern with dots into quotes",
    "quantise.hardness.start=50": r"start must be at most end \(40\)",
    "quantise.hardness.hart=50": r"hardness\.hart, which means nothing; use",
    "nothing": "not of the form",
    "quantise.overrides.joint.*=8": "put a key of more than letters, digits, _ and - into quotes",
    '"seed=3': "not of the form",
    "seed.=3": "not of the form",
    "=3": "not of the form",
    "output.of.all=3": "is no table",
    "outputs=3": "outputs, which means nothing; use output",
}


@pytest.mark.parametrize("change", MISTAKES)
def test_each_mistake_has_its_sentence(small, change):
    if MISTAKES[change] is None:
        read(str(small), [change])
        return
    with pytest.raises(Error, match=MISTAKES[change]) as refused:
        read(str(small), [change])
    assert "\n" not in str(refused.value)


def test_a_start_leaves_nothing_to_train(small):
    with pytest.raises(Error, match=r"so fp32\.steps means nothing"):
        read(str(small), ["fp32.start_from=a", "fp32.steps=3"])


def test_two_sets_of_one_name(small):
    small.write_text(SMALL + '\n[[corpus]]\nkind = "manifest"\nfile = "b"\nrole = "test"\n')
    with pytest.raises(Error, match="two corpora are named 'test'"):
        read(str(small))


def test_odd_files(tmp_path):
    with pytest.raises(Error, match="nor a shipped configuration of that name; the shipped are"):
        read("digits-rnmt")
    path = tmp_path / "a.toml"
    for content in ("a = = b", "a = " + "[" * 100_000):
        path.write_text(content)
        with pytest.raises(Error, match="is no TOML file"):
            read(str(path))
    path.write_bytes(b"a = 1\nb = '\xff'")
    with pytest.raises(Error, match=r"a\.toml, line 2, is not in UTF-8; save"):
        read(str(path))
    with pytest.raises(Error, match="is a folder; name a text inside it"):
        read(str(tmp_path))
    with pytest.raises(Error, match="nor a shipped configuration"):
        read("x" * 300)


@pytest.mark.parametrize("name", list(config_file.shipped()))
def test_the_shipped_configurations_are_right(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    corpus = "fsdd" if name.startswith("digits") else "librispeech"
    assert command.main([name]) == 2
    absent = (
        "--set folders.fsdd=FOLDER" if corpus == "fsdd" else "LibriSpeech/train-clean-100: there"
    )
    assert absent in capsys.readouterr().err
    found = read(name, [f"folders.{corpus}={tmp_path}"])
    assert found.output == tmp_path / name
    assert {one.role for one in found.corpora} == {"train", "development", "test"}
    text = (config_file.SHIPPED / f"{name}.toml").read_text()
    assert f"gq_tvm.train {name} --set folders.{corpus}=" in text
    if corpus == "librispeech":
        assert isinstance(found.batches, Limits)
        assert found.network.features == 320
        if isinstance(found.network.encoder, ConformerSettings):
            assert (found.network.encoder.size, found.network.encoder.layers) == (512, 12)
    else:
        assert found.corpora[1].words == DIGITS


def test_what_decides_a_phase(small):
    one = read(str(small))
    assert "quantise" not in one.decisive("fp32")
    for change in ("seed=4", "corpus.1.share=0.4", "fp32.steps=9", "augmentation.clean=0.5"):
        assert read(str(small), [change]).decisive("fp32") != one.decisive("fp32"), change
    other = read(str(small), ["quantise.bits=3", "evaluation.joined=7", "output=x"])
    assert other.decisive("fp32") == one.decisive("fp32")
    assert other.decisive("quantised") != one.decisive("quantised")
    moved = read(str(small), ["folders.fsdd=/elsewhere/recordings"])
    assert moved.decisive("quantised") == one.decisive("quantised")


def refusal(capsys: Any, *arguments: str) -> str:
    assert command.main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert re.match("error: .*\n$|usage", error)
    return error


def test_the_command_refuses_in_a_sentence(small, capsys):
    assert "no such folder" in refusal(capsys, str(small))
    (small.parent / "recordings").mkdir()
    assert "no such file" in refusal(capsys, str(small))
    (small.parent / "test.jsonl").touch()
    assert "fp32.steps" in refusal(capsys, str(small), "--set", "fp32.steps=x", "--check")
    assert "required" in refusal(capsys)
    assert "pattern 'encoder.lstm.7'" in refusal(
        capsys, str(small), "--set", "quantise.overrides={'encoder.lstm.7' = 2}"
    )
    assert "no such checkpoint" in refusal(
        capsys, str(small), "--set", "fp32.start_from=none", "--check"
    )


def test_the_command_lists(capsys):
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.count("\n") == len(config_file.shipped()) == 6


def test_config_without_a_value_it_needs(small):
    small.write_text(SMALL.replace('output = "out/digits"', ""))
    with pytest.raises(Error, match="needs output; add it"):
        config.read(str(small))
