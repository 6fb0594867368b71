from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.codebook_models import Linear, everything, export, linear_program

import gq_tvm
from gq_tvm import compile as compile_command
from gq_tvm import inspect as inspect_command
from gq_tvm.verification import bound as verification

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    torch.export.save(linear_program(), folder / "linear.pt2")
    torch.export.save(everything("int8")[1], folder / "everything.pt2")
    torch.export.save(export(torch.nn.Linear(3, 2), torch.ones(1, 3)), folder / "plain.pt2")
    code = compile_command.main(
        [str(folder / "everything.pt2"), "-o", str(folder / "everything.gq"), "--verify"]
    )
    assert code == 0
    return folder


def run(*argv: object) -> int:
    return compile_command.main([str(word) for word in argv])


def test_a_compiled_model_runs(folder, capsys):
    assert run(folder / "linear.pt2", "-o", folder / "linear.gq", "--kernel", "scalar") == 0
    written = capsys.readouterr()
    assert "1 codebook layers" in written.out
    assert [line.split("] ")[1] for line in written.err.splitlines()] == [
        "importing",
        f"packing for {gq_tvm.load(folder / 'linear.gq').manifest.target}",
        "compiling 1 layers",
        f"wrote {folder / 'linear.gq'}",
    ]


def test_verify_reports_each_function(folder, capsys):
    inputs = folder / "inputs.npz"
    np.savez(inputs, input=np.ones((2, 5, 10), np.float32))
    out = folder / "verified.gq"
    assert run(folder / "linear.pt2", "-o", out, "--verify", "--inputs", inputs) == 0
    assert "main: passed with 4 random inputs and 1 given" in capsys.readouterr().out


def test_verify_fails_when_the_outputs_differ(folder, capsys, monkeypatch):
    monkeypatch.setattr(verification, "FLOOR", -1.0)
    monkeypatch.setattr(verification, "MARGIN", -1.0)  # where they do not differ at all, too
    assert run(folder / "linear.pt2", "-o", folder / "wrong.gq", "--verify") == 1
    assert "verification failed: main differs from PyTorch by" in capsys.readouterr().err


def test_verify_knows_another_arithmetic(folder, capsys):
    out = folder / "int8.gq"
    assert run(folder / "linear.pt2", "-o", out, "--activation", "int8", "--verify") == 0
    assert "(at most 0.0001); its activations move PyTorch's own" in capsys.readouterr().out


def test_the_phases_are_written(folder, capsys):
    dump = folder / "phases" / "linear"
    assert run(folder / "linear.pt2", "-o", folder / "linear.gq", "--dump", dump) == 0
    assert len(list(dump.iterdir())) > 4
    capsys.readouterr()
    in_the_way = folder / "linear.pt2"
    assert run(folder / "linear.pt2", "-o", folder / "linear.gq", "--dump", in_the_way) == 2
    assert capsys.readouterr().err.endswith("; choose another --dump\n")


def test_the_targets_are_listed(capsys):
    assert run("--target", "help") == 0
    assert "cortex-a76" in capsys.readouterr().out


def test_inspect_shows_each_layer(folder, capsys):
    assert inspect_command.main([str(folder / "everything.gq")]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["lstm.hh"][1:5] == ["lstm", "32x8", "3", "int8"]
    assert rows["depthwise"][1:6] == ["conv1d", "16x1x5", "4", "fp32", "depthwise"]
    assert "9 codebook layers" in text


def test_inspect_as_json(folder, capsys):
    assert inspect_command.main([str(folder / "everything.gq"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    layers = {layer["name"]: layer for layer in data["layers"]}
    assert layers["out"]["shape"] == [9, 8]
    assert layers["out"]["bytes"] < data["totals"]["codebook"] < data["totals"]["parameters"]
    assert data["totals"]["fp32"] == 4 * data["totals"]["int8"]
    assert 0 < sum(layer["share"] for layer in data["layers"]) < 1


def test_tied_weights_count_once(tmp_path, capsys):
    layer = Linear(10, 10)
    program = export(torch.nn.Sequential(layer, torch.nn.Tanh(), layer), torch.randn(1, 10))
    torch.export.save(program, tmp_path / "tied.pt2")
    assert run(tmp_path / "tied.pt2", "-o", tmp_path / "tied.gq", "--kernel", "scalar") == 0
    inspect_command.main([str(tmp_path / "tied.gq"), "--json"])
    totals = json.loads(capsys.readouterr().out.partition("\n")[2])["totals"]
    assert totals["int8"] == 100


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing.pt2", "-o", "out.gq"], "nothing.pt2 does not exist"),
        (["broken.pt2", "-o", "out.gq"], "broken.pt2 is damaged"),
        (["linear.pt2", "-o", "out.gq", "--target", "cortex-a67"], "unknown target 'cortex-a67'"),
        (["linear.pt2", "-o", "out.gq", "--target", "cortex-a35"], "arm runs on every 64-bit"),
        (
            ["linear.pt2", "-o", "out.gq", "--target", "cortex-a7", "--verify"],
            "TVM has no runtime for 32-bit ARM",
        ),
        (["broken.pt2", "-o", "out.gq", "--kernel", "magic"], "unknown kernel 'magic'"),
        (["linear.pt2", "-o", "out.gq", "--tune", "0"], "'0' is no whole number of 1 or more"),
        (["linear.pt2", "-o", "taken"], "taken exists and is not a gq-tvm artefact"),
        (["linear.pt2", "-o", "out.gq", "--verify", "--inputs", "broken.pt2"], "not a readable"),
        (
            ["linear.pt2", "-o", "out.gq", "--inputs", "inputs.npz"],
            "--inputs needs --verify or --against-float",
        ),
        (["linear.pt2", "-o", "out.gq", "--activation", "int4"], "invalid choice: 'int4'"),
        (["linear.pt2"], "is required: -o/--output, --bundle"),
        ([], "the following arguments are required: MODEL"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(folder)
    (folder / "broken.pt2").write_bytes(b"PK\x03\x04 and no more")
    (folder / "taken").write_text("")
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_process_leaves_with_2_and_no_traceback(tmp_path):
    words = [sys.executable, "-m", "gq_tvm.compile", "nothing.pt2", "-o", "out.gq"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=_environment())
    assert done.returncode == 2
    assert done.stderr == "error: nothing.pt2 does not exist; give the path of a file\n"


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(gq_tvm.__file__).parents[1])}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_inspect_of_no_artefact(tmp_path, capsys, options):
    assert inspect_command.main([str(tmp_path), *options]) == 2
    assert "is not a gq-tvm artefact" in capsys.readouterr().err
