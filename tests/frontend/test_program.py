"""What can be compiled, and what is said of what cannot."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.codebook_models import Linear, export, linear_program
from torch import nn
from torch.export.pt2_archive._package import package_pt2

from gq_tvm import frontend
from gq_tvm.errors import Error
from gq_tvm.frontend.places import line_of


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(linear_program(), path)
    return path


def test_a_saved_program(file):
    program = frontend.read(file)
    assert list(program.programs) == ["main"]
    assert program.metadata is None


def test_several_programs_with_metadata(tmp_path):
    path = tmp_path / "several.pt2"
    package_pt2(
        str(path),
        exported_programs={"encoder": linear_program(), "joint": linear_program(4, 6)},
        extra_files={"gq_metadata.json": json.dumps({"task": "rnnt"})},
    )
    program = frontend.read(str(path))
    assert list(program.programs) == ["encoder", "joint"]
    assert program.metadata == {"task": "rnnt"}


def test_programs_in_memory():
    one = linear_program()
    assert list(frontend.read(one).programs) == ["main"]
    assert list(frontend.read({"encoder": one}).programs) == ["encoder"]
    assert frontend.read(frontend.read(one)).programs == {"main": one}


def test_metadata_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "model.pt2"
    package_pt2(
        str(path),
        exported_programs={"main": linear_program()},
        extra_files={"gq_metadata.json": "{"},
    )
    with pytest.raises(Error, match=r"gq_metadata\.json is not valid JSON"):
        frontend.read(path)


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name in names:
            made.writestr(name, "{}")
    return content.getvalue()


def safetensors() -> bytes:
    from safetensors.numpy import save

    return save({"weight": np.ones(3, np.float32)})


def checkpoint() -> bytes:
    content = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, content)
    return content.getvalue()


KINDS = {
    "is empty; write it again": lambda good: b"",
    "is damaged, cut short or altered; write it again": lambda good: good[: len(good) // 2],
    "is a text file, not a .pt2 file; export the": lambda good: "Grüße\n".encode() * 400,
    "is an ONNX model, not": lambda good: b"\x08\x0a\x12\x07pytorch\x1a\x052.13\xff\x00" * 9,
    "is a safetensors file, which holds weights alone": lambda good: safetensors(),
    "is what torch.save wrote, not a .pt2 file; load them into": lambda good: checkpoint(),
    "is a pickle (an old torch.save), not": lambda good: b"\x80\x02}q\x00.",
    "is a TorchScript model": lambda good: archive("m/data.pkl", "m/code/__torch__.py"),
    "is an exported program of PyTorch 2.7": lambda good: archive(
        "version", "serialized_exported_program.json"
    ),
    "is an .npz file of arrays": lambda good: archive("x.npy", "y.npy"),
    "is a zip file of something else": lambda good: archive("hello.txt"),
    "is a TensorFlow Lite model": lambda good: b"\x1c\0\0\0TFL3" + bytes(40),
    "is of a kind not known here": lambda good: bytes(range(256)) * 20,
}


@pytest.mark.parametrize("message", KINDS)
def test_a_file_is_told_by_its_content(file, tmp_path, message):
    path = tmp_path / "model.pt2"
    path.write_bytes(KINDS[message](file.read_bytes()))
    with pytest.raises(Error, match=re.escape(f"{path} {message}")):
        frontend.read(path)


def test_a_good_file_may_have_any_name(file, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(file.read_bytes())
    assert list(frontend.read(path).programs) == ["main"]


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(Error, match=r"nothing\.pt2 does not exist"):
        frontend.read(tmp_path / "nothing.pt2")
    with pytest.raises(Error, match=r"is a folder, not a \.pt2 file"):
        frontend.read(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(Error, match="is an artefact, compiled already, not"):
        frontend.read(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (nn.Linear(2, 2), "cannot compile a Linear; give what torch.export.export returns"),
        ({}, "there is no program"),
        ({"main": nn.Linear(2, 2)}, "program main is a Linear"),
        ({"a b": None}, "program name 'a b' cannot be a function name"),
    ],
)
def test_other_things_are_refused(source, message):
    with pytest.raises(Error, match=message):
        frontend.read(source)


class Untranslatable(nn.Module):
    """Two operators TVM lacks, in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)
        self.inner = Inner()

    def forward(self, x):
        return self.inner(self.inner(torch.linalg.matrix_exp(self.layer(x) @ self.layer(x).T)))


class Inner(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_all_operators_that_cannot_be_translated_are_named():
    program = export(Untranslatable(), torch.randn(6, 10))
    with pytest.raises(Error) as refusal:
        frontend.translate(frontend.read(program))
    text = str(refusal.value)
    line = "test_program.py, line"
    assert f"aten.linalg_matrix_exp.default (in the top level: {line}" in text
    assert f"aten.special_bessel_j0.default (2 times in inner: {line}" in text
    assert "return torch.special.bessel_j0(x)" in text


def test_a_place_is_the_users_own_line():
    node = torch.fx.Graph().placeholder("x")
    node.meta["stack_trace"] = (
        '  File "/home/me/net.py", line 7, in forward\n    y = self.conv(x)\n'
        '  File "/a/site-packages/torch/nn/modules/conv.py", line 9, in forward\n    return 1\n'
    )
    assert line_of(node) == "net.py, line 7: y = self.conv(x)"
    node.meta["stack_trace"] = 'File "<stdin>", line 2, in f\n  File "<stdin>", line 3, in g'
    assert line_of(node) == "<stdin>, line 3"


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, x, times: int):
        return self.layer(x) * times


def test_an_input_that_is_no_tensor_is_refused():
    program = torch.export.export(Counting().eval(), (torch.randn(2, 10), 3))
    with pytest.raises(Error, match="input 'times' of program main is not a tensor"):
        frontend.translate(frontend.read(program))


@pytest.mark.export
def test_build_is_a_function_also_after_its_module_was_imported():
    import gq_tvm
    import gq_tvm.build as module

    assert module.build(linear_program(), kernel="scalar").manifest.layers
    assert gq_tvm.build(linear_program(), kernel="scalar").manifest.layers


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)

    def forward(self, x, y):
        return self.layer(x + 2 * y)


def test_one_tensor_exported_as_two_inputs_is_warned_of():
    from gq_tvm.build import build

    x = torch.randn(2, 10)
    lines: list[str] = []
    build(export(Halves(), x, x), kernel="scalar", progress=lines.append)
    assert [line for line in lines if "warning" in line] == [
        "warning: main does not use its input x; was one tensor exported as two?"
    ]
    assert frontend.unused_inputs(export(Halves(), x, x.clone())) == []
