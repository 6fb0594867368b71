"""The shipped recogniser from end to end: PyTorch, this machine, an emulated board, commands."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.codebook_models import built_everything

import gq_tvm
from gq_tvm import demo, frontend, inspect, profile, targets, transcribe
from gq_tvm.models.torch_recogniser import on_numpy
from gq_tvm.runtime.profiling import compare
from gq_tvm.schedules.cpu.instruction_sets import INSTRUCTION_SETS
from gq_tvm.speech import audio
from gq_tvm.speech.recogniser import Recogniser

pytestmark = pytest.mark.export

DIGITS = Path(gq_tvm.__file__).parent / "models" / "digits"
SAMPLES = sorted((DIGITS / "samples").glob("*.wav"))


@pytest.fixture(scope="module")
def native(digits, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.gq"
    digits.save(path)
    return path


@pytest.fixture(scope="module")
def in_pytorch() -> Recogniser:
    program = frontend.read(DIGITS / "digits.pt2")
    networks = {name: on_numpy(one.module()) for name, one in program.programs.items()}
    return Recogniser(program.metadata, networks)


def read(recogniser: Recogniser, path: Path) -> np.ndarray:
    return audio.read(path, recogniser.sample_rate)


def test_hears_what_pytorch_hears(native, in_pytorch):
    compiled = transcribe.recogniser_of(gq_tvm.load(native), "digits.gq")
    for path in SAMPLES:
        samples = read(compiled, path)
        assert compiled.transcribe(samples) == in_pytorch.transcribe(samples)


def test_hears_the_words_of_its_own_samples(in_pytorch):
    """Not every word: they were drawn before training. Most of them, or training went wrong."""
    truth = json.loads((DIGITS / "samples" / "truth.json").read_text())["files"]
    heard = {path.name: in_pytorch.transcribe(read(in_pytorch, path)) for path in SAMPLES}
    assert sum(heard[name] == one["text"] for name, one in truth.items()) >= 3, heard


def test_logits_are_those_of_pytorch(native):
    program = frontend.read(DIGITS / "digits.pt2").programs
    net = gq_tvm.load(native)
    rng = np.random.default_rng(0)
    for name, function in ((name, net[name]) for name in net.functions):
        for frames in (1, 7):
            inputs = [
                rng.standard_normal([frames if isinstance(s, str) else s for s in t.shape]).astype(
                    t.dtype
                )
                if t.dtype == "float32"
                else np.array([[3]], t.dtype)
                for t in function.inputs
            ]
            with torch.no_grad():
                want = program[name].module()(*map(torch.from_numpy, inputs))
            got = function(*inputs)
            want, got = (x if isinstance(x, tuple) else (x,) for x in (want, got))
            for mine, theirs in zip(got, want, strict=True):
                # An input on the edge between two of 127 steps may fall to either side.
                np.testing.assert_allclose(mine, theirs.numpy(), atol=2e-2)
                assert np.median(np.abs(mine - theirs.numpy())) < 1e-5


@pytest.mark.emulated
def test_emulated_boards_hear_the_same(in_pytorch, emulated, tmp_path):
    """Each instruction set of 64-bit ARM: the text of PyTorch, and logits alike to the bit."""
    samples = read(in_pytorch, min(SAMPLES, key=lambda path: path.stat().st_size))
    found = []
    for name in ("cortex-a53", "cortex-a76", "cortex-a510"):
        gq_tvm.build(DIGITS / "digits.pt2", target=name).save(tmp_path / f"{name}.gq")
        net = gq_tvm.load(tmp_path / f"{name}.gq", emulated(targets.get(name).emulator_cpu))
        board = transcribe.recogniser_of(net, name)
        assert board.transcribe(samples) == in_pytorch.transcribe(samples)
        if targets.get(name).instruction_set in INSTRUCTION_SETS:  # scalar code rounds otherwise
            rng = np.random.default_rng(0)
            shapes = [
                [7 if isinstance(s, str) else s for s in t.shape] for t in net["encoder"].inputs
            ]
            inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
            found.append(net["encoder"](*inputs))
    for other in found[1:]:
        for y, z in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(y, z)


def test_transcribe_streams_and_reports(native, in_pytorch, capsys):
    assert transcribe.main([str(native), *map(str, SAMPLES[:2]), "--json", "--live"]) == 0
    out, err = capsys.readouterr()
    for line, path in zip(out.splitlines(), SAMPLES, strict=False):
        row = json.loads(line)
        assert row["text"] == in_pytorch.transcribe(read(in_pytorch, path))
        assert row["rtf"] > 0
        assert row["text"].split()[0] in err
    assert transcribe.main([str(native), str(SAMPLES[0])]) == 0
    assert "real-time factor" in capsys.readouterr().out


def test_a_recording_that_is_refused_costs_itself_in_one_sentence(native, tmp_path, capsys):
    bad = [tmp_path / "missing.wav", tmp_path / "text.wav"]
    bad[1].write_text("not a recording")
    odd = tmp_path / os.fsdecode(b"Andr\xe9.wav")  # a name that is no UTF-8
    shutil.copy(SAMPLES[0], odd)
    given = [str(path) for path in (bad[0], SAMPLES[0], bad[1], odd)]
    assert transcribe.main([str(native), *given]) == 2
    printed, complained = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.splitlines()[::2]] == [
        given[1],
        given[3].encode("utf-8", "backslashreplace").decode(),
    ]
    first, second = complained.splitlines()
    assert first == f"error: {bad[0]}: there is no such file; check the path"
    assert second.startswith(f"error: {bad[1]} cannot be read as audio")
    assert transcribe.main([str(native), *given, "--json"]) == 2
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == given
    assert [f"error: {row['error']}" for row in rows if "error" in row] == [first, second]
    assert rows[1]["text"] == rows[3]["text"]


def test_what_is_odd_of_a_recording_is_noted(native, tmp_path, capsys):
    path = str(tmp_path / "a.wav")
    samples = audio.read(SAMPLES[0], 8000)[:2000]
    soundfile.write(path, np.stack([samples, -samples], 1), 8000)
    assert transcribe.main([str(native), path]) == 0
    expected = f"note: the channels of {path} cancel each other; give one of them\n"
    assert capsys.readouterr().err == expected


def test_transcribe_refuses_what_is_no_recogniser(tmp_path, capsys):
    model = gq_tvm_linear(tmp_path)
    assert transcribe.main([str(model), str(SAMPLES[0])]) == 2
    assert "no speech recogniser" in capsys.readouterr().err


def test_code_for_arm_is_refused_here_with_a_way_on(tmp_path, capsys):
    if targets.get("native").machine == "aarch64":
        pytest.skip("this is an ARM machine: the artefact runs here")
    model = gq_tvm_linear(tmp_path, target="arm")
    assert transcribe.main([str(model), str(SAMPLES[0])]) == 2
    err = capsys.readouterr().err
    assert "aarch64" in err
    assert "--emulate" in err


def test_profile_shows_functions_layers_and_the_baseline(native, tmp_path, capsys):
    result = tmp_path / "profile.json"
    arguments = [str(native), "--against", str(DIGITS / "digits.pt2"), "--rounds", "1"]
    assert profile.main([*arguments, "--json", str(result)]) == 0
    out = capsys.readouterr().out
    layers = {layer.call["layer"] for layer in gq_tvm.load(native).layers}
    assert all(name in out for name in ["encoder", "predictor", "joint", *layers])
    timings = json.loads(result.read_text())["timings"]
    assert [*timings] == ["digits.gq", "fp32"]
    mine, baseline = (
        {(row["function"], row["name"]): row for row in timings[label]} for label in timings
    )
    for key, row in mine.items():
        if row["kind"] == "rest":
            continue
        assert 0 < row["median"] <= row["p90"] <= row["p99"]
        assert row["calls"] >= 1
        if row["kind"] != "operator":
            assert row["bytes"] <= baseline[key]["bytes"]


def test_profile_has_a_line_for_all_that_is_called(tmp_path):
    """What `inspect` names, float operators by their layers, and what is left."""
    built_everything("int8").save(tmp_path / "model.gq")
    model = gq_tvm.load(tmp_path / "model.gq")
    timings = compare({"model": model}, rounds=1, frames=8).timings["model"]
    assert timings[0].kind == "function"
    assert timings[-1].name == "outside kernels"
    lines = {one.name: one for one in timings[1:-1]}
    assert lines.keys() >= {"embedding", "strided", "depthwise", "lstm", "out", "layer_norm (norm)"}
    called = model.manifest.functions["main"].calls
    assert sum(one.calls for one in lines.values()) == sum(one.times for one in called)
    totals = [one.calls * one.median for one in timings[1:-1]]
    assert totals == sorted(totals, reverse=True)
    assert sum(totals) + timings[-1].median == pytest.approx(timings[0].median)


def gq_tvm_linear(folder: Path, target: str = "native") -> Path:
    """A plain compiled model: one linear layer."""
    from gq_tvm import quantize

    model = quantize.compress(torch.nn.Sequential(torch.nn.Linear(8, 8)), bits=2).eval()
    program = torch.export.export(model, (torch.zeros(1, 8),))
    gq_tvm.build(program, target=target).save(folder / "linear.gq")
    return folder / "linear.gq"


@pytest.mark.parametrize("option", [["--rounds", "0"], ["--frames", "-3"]])
def test_profile_wants_numbers_above_zero(native, option, capsys):
    assert profile.main([str(native), *option]) == 2
    assert option[0] in capsys.readouterr().err


def test_profile_refuses_another_model(native, tmp_path, capsys):
    other = gq_tvm_linear(tmp_path)
    assert profile.main([str(native), "--against", str(other)]) == 2
    assert "no function in common" in capsys.readouterr().err
    assert profile.main([str(native), "--against", "nothing.pt2"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: nothing.pt2 does not exist")


def test_an_exported_program_is_no_artefact(capsys):
    assert transcribe.main([str(DIGITS / "digits.pt2"), str(SAMPLES[0])]) == 2
    assert "compile it first" in capsys.readouterr().err


def test_demo_refuses_a_file_for_a_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert demo.main(["-o", str(tmp_path / "file")]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_inspect_refuses_a_damaged_artefact(native, tmp_path, capsys):
    damaged = tmp_path / "damaged.gq"
    shutil.copytree(native, damaged)
    (damaged / "model.so").write_bytes(b"not code")
    assert inspect.main([str(damaged)]) == 2
    assert "damaged or was altered" in capsys.readouterr().err
