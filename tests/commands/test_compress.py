"""The compress command: a float program in, a program in codebooks out."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.codebook_models import linear_program
from helpers.float_models import mixed, mixed_inputs
from torch import nn
from torch.export.pt2_archive._package import package_pt2

import gq_tvm
from gq_tvm import compile as compile_command
from gq_tvm import compress, frontend, quantize, verify
from gq_tvm.exported import as_module

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compress")
    torch.export.save(mixed(), folder / "model.pt2")
    torch.export.save(linear_program(activation="int8"), folder / "codebook.pt2")
    plain = torch.export.export(nn.Tanh(), (torch.randn(2),))
    torch.export.save(plain, folder / "nothing.pt2")
    return folder


def run(folder: Path, *words: str) -> int:
    return compress.main([str(folder / word) if word.endswith(".pt2") else word for word in words])


def test_a_float_program_becomes_one_in_codebooks_that_compiles(folder, capsys):
    before = (folder / "model.pt2").read_bytes()
    words = ("--bits", "4", "--override", "lstm=2", "--override", "conv=32")
    kinds = ("--activation", "int8", "--activation", "out=fp32")
    assert run(folder, "model.pt2", "-o", "small.pt2", *words, *kinds) == 0
    written = capsys.readouterr()
    rows = {line.split()[0]: line.split()[2:4] for line in written.out.splitlines()[1:-2]}
    assert rows["lstm.weight_ih_l0"] == ["2", "int8"]
    assert rows["out.weight"] == ["4", "fp32"]
    assert rows["gru.weight_hh_l0"] == ["4", "int8"]
    assert rows["conv.weight"] == ["32", "fp32"]
    assert "bits a weight in codebooks" in written.out
    assert "warning: " in written.err
    assert "wrote " in written.err
    assert (folder / "model.pt2").read_bytes() == before
    program = frontend.read(folder / "small.pt2").programs["main"]
    assert torch.export.load(folder / "small.pt2").call_spec == mixed().call_spec
    gq_tvm.build(program).save(folder / "small.gq")
    inputs = mixed_inputs(3)
    with torch.no_grad():
        wanted = program.module()(inputs[0], {"h": inputs[1], "c": inputs[2]})
    got = gq_tvm.load(folder / "small.gq")(*(one.numpy() for one in inputs))
    np.testing.assert_allclose(got[0], wanted["scores"].numpy(), rtol=0.05, atol=0.05)


def test_the_command_gives_the_codebooks_of_python(folder):
    assert run(folder, "model.pt2", "-o", "three.pt2", "--bits", "3") == 0
    program = frontend.read(folder / "three.pt2").programs["main"]
    module = quantize.compress(as_module(frontend.read(folder / "model.pt2").programs), 3)
    state = module.state_dict()
    assert all(torch.equal(one, program.state_dict[name]) for name, one in state.items())


def test_several_programs_and_texts_stay_together(folder, capsys):
    x = torch.randn(2, 6)
    programs = {name: torch.export.export(nn.Linear(6, 6), (x,)) for name in ("one", "two")}
    packed = io.BytesIO()
    package_pt2(packed, exported_programs=programs, extra_files={"note.txt": "kept"})
    (folder / "two.pt2").write_bytes(packed.getbuffer())
    assert run(folder, "two.pt2", "-o", "both.pt2", "--override", "two.*=8") == 0
    assert "two.weight.weight" in capsys.readouterr().out
    again = frontend.read(folder / "both.pt2")
    assert list(again.programs) == ["one", "two"]
    assert again.extra == {"note.txt": "kept"}


class Small(nn.Module):
    """Two layers of an LSTM, frames first, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, 2)
        self.out = nn.Linear(6, 4, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x)[0])


@pytest.fixture(scope="module")
def recorded(folder) -> Path:
    """A small model, inputs for it, and what is compressed with them."""
    torch.manual_seed(0)
    x = torch.randn(20, 1, 6)
    torch.export.save(torch.export.export(Small().eval(), (x,)), folder / "small-float.pt2")
    np.savez(folder / "in.npz", x=np.random.default_rng(0).standard_normal((4, 20, 1, 6), "f"))
    inputs = ("--inputs", str(folder / "in.npz"), "--scales", "row", "--outliers", "0")
    assert run(folder, "small-float.pt2", "-o", "fitted.pt2", "--bits", "6", *inputs) == 0
    assert run(folder, "small-float.pt2", "-o", "dead.pt2", "--bits", "1") == 0
    return folder


def test_inputs_fit_the_weights_and_tell_what_is_lost(recorded, capsys):
    words = ("--inputs", str(recorded / "in.npz"), "--bits", "6", "--scales", "row")
    assert run(recorded, "small-float.pt2", "-o", "again.pt2", *words) == 0
    written = capsys.readouterr()
    assert "SQNR" in written.err
    assert "by the weights alone" not in written.out
    fitted, again = (
        frontend.read(recorded / name).programs["main"].state_dict
        for name in ("fitted.pt2", "again.pt2")
    )
    assert all(torch.equal(one, again[name]) for name, one in fitted.items())


def test_what_is_computed_when_the_user_stops_is_written(recorded, capsys, monkeypatch):
    def stopped(model, *about, **options):
        class Stopped(quantize.Interrupted):
            done, total = 1, 5

            def __init__(self) -> None:
                pass

            def model(self) -> nn.Module:
                return full(model, 4, progress=None)

        raise Stopped

    full = quantize.compress
    monkeypatch.setattr(quantize, "compress", stopped)
    words = ("-o", "stopped.pt2", "--inputs", str(recorded / "in.npz"))
    assert run(recorded, "small-float.pt2", *words) == 130
    assert "interrupted: 1 of 5 weights were fitted to inputs" in capsys.readouterr().err
    assert (
        "lstm.indices_hh_l1" in frontend.read(recorded / "stopped.pt2").programs["main"].state_dict
    )


def test_compile_says_what_is_lost_against_the_float_model(recorded, capsys):
    words = ["-o", str(recorded / "dead.gq"), "--against-float", str(recorded / "small-float.pt2")]
    assert compile_command.main([str(recorded / "dead.pt2"), *words]) == 0
    written = capsys.readouterr()
    assert "against the float model, on random inputs" in written.out
    assert [line.split()[0] for line in written.out.splitlines()[-3:]] == ["lstm", "out", "output"]
    assert "warning: 1 of 1 outputs of the model lose more than 10%" in written.err


def test_verify_fails_for_a_model_of_which_little_is_left(recorded, capsys):
    words = ["--against-float", str(recorded / "small-float.pt2")]
    words += ["--inputs", str(recorded / "in.npz")]
    for name, code in (("dead", 1), ("fitted", 0)):
        model, artefact = str(recorded / f"{name}.pt2"), str(recorded / f"{name}.gq")
        gq_tvm.build(frontend.read(model)).save(artefact)
        assert verify.main([model, artefact, *words]) == code
        written = capsys.readouterr()
        assert "main: passed" in written.out
        assert "on 4 given inputs" in written.out
        failed = "verification failed: the model loses more than 10% of its outputs' signal"
        assert (failed in written.err) == bool(code)
    words = ["--against-float", str(recorded / "dead.pt2")]
    assert verify.main([model, artefact, *words]) == 2
    assert "has weights in codebooks; give the model as it was exp" in capsys.readouterr().err
    words = ["--against-float", str(recorded / "model.pt2")]
    assert verify.main([model, artefact, *words]) == 2
    assert "takes other inputs than the compressed one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("absent.pt2", "-o", "out.pt2"), "absent.pt2 does not exist"),
        (("codebook.pt2", "-o", "out.pt2"), "has weights in codebooks already (program main)"),
        (("nothing.pt2", "-o", "out.pt2"), "compress: the model has no weight to quantise"),
        (("model.pt2", "-o", "model.pt2"), "model.pt2 is the model itself, which stays as it is"),
        (("model.pt2", "-o", "/"), "/ is a folder; name a file for -o"),
        (("model.pt2", "-o", "out.pt2", "--override", "no=2"), "'no' matches no weight or module"),
        (("model.pt2", "-o", "out.pt2", "--override", "lstm"), "'lstm' is not PATTERN=N"),
        (("model.pt2", "-o", "out.pt2", "--inputs", "no.npz"), "no.npz does not exist"),
        (("model.pt2", "-o", "out.pt2", "--scales", "8"), "'8' is none of tensor, row, 16"),
        (("model.pt2", "-o", "out.pt2", "--bits", "9"), "'9' are no bits; give 1 to 8"),
        (("model.pt2", "-o", "out.pt2", "--activation", "int4"), "'int4' is none of"),
    ],
)
def test_what_cannot_be_compressed_is_said_in_a_sentence(folder, capsys, words, message):
    assert run(folder, *words) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out.pt2").exists()


def test_an_output_that_cannot_be_written_is_refused_at_once(folder, capsys):
    shutil.copy(folder / "model.pt2", folder / "file")
    assert run(folder, "model.pt2", "-o", str(folder / "file" / "x.pt")) == 2
    assert "choose another -o" in capsys.readouterr().err
