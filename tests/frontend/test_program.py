"""What can be compiled, and what is said of what cannot."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from codebook_models import Linear, export, linear_program
from torch import nn
from torch.export.pt2_archive._package import package_pt2

from gq_tvm import frontend
from gq_tvm.errors import Error


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


def truncated(good: bytes) -> bytes:
    return good[: len(good) // 2]


def foreign_archive(_: bytes) -> bytes:
    import io

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("hello.txt", "not a model")
    return content.getvalue()


@pytest.mark.parametrize(
    "content", [lambda _: b"", lambda _: b"onnx or so", truncated, foreign_archive]
)
@pytest.mark.parametrize("name", ["model.pt2", "model.bin"])
def test_a_damaged_or_foreign_file_is_refused(file, tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content(file.read_bytes()))
    with pytest.raises(Error, match=r"is not a \.pt2 file or is damaged"):
        frontend.read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Error, match=r"nothing\.pt2 does not exist"):
        frontend.read(tmp_path / "nothing.pt2")
    with pytest.raises(Error, match=r"is not a \.pt2 file"):
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
        return self.inner(torch.linalg.matrix_exp(self.layer(x) @ self.layer(x).T))


class Inner(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_all_operators_that_cannot_be_translated_are_named():
    program = export(Untranslatable(), torch.randn(6, 10))
    with pytest.raises(Error) as refusal:
        frontend.translate(frontend.read(program))
    text = str(refusal.value)
    assert "bessel_j0" in text
    assert "(in inner)" in text
    assert "matrix_exp" in text
    assert "(in the top level)" in text


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
