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
from gq_tvm import compress, frontend, quantize
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
