"""A ``.pt2`` is data: what PyTorch would unpickle or run is refused, and damage is told of."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.codebook_models import Linear, Lstm, frames
from helpers.pt2_files import altered
from torch import nn
from torch.utils import _pytree

from gq_tvm import frontend
from gq_tvm.errors import Error
from gq_tvm.frontend.reading.archive import Archive
from gq_tvm.frontend.reading.program_table import plain


class Views(nn.Module):
    """A layer, a view of a large storage and a constant."""

    window: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(6, 10)
        self.register_buffer("window", torch.arange(4000.0).view(1000, 4)[2:4, 1:3])
        self.shift = torch.ones(6)

    def forward(self, x, scale):
        y = self.layer(x) + self.shift
        return {"y": y, "all": [self.window * scale["by"], OrderedDict(x=x)]}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    inputs = torch.randn(7, 10), {"by": torch.ones(1)}
    dynamic = {"x": {0: 2 * frames(2, 9) + 1}, "scale": {"by": None}}
    torch.export.save(torch.export.export(Views(), inputs, dynamic_shapes=dynamic), path)
    return path


def test_a_program_comes_back_whole(file):
    program = frontend.read(file).programs["main"]
    trusted = torch.export.load(file)
    assert str(program.graph) == str(trusted.graph)
    ranges = [list(one.range_constraints.values()) for one in (program, trusted)]
    assert ranges[0] == ranges[1]
    args, _ = program.example_inputs
    torch.testing.assert_close(program.module()(*args), trusted.module()(*args))
    torch.testing.assert_close(args, trusted.example_inputs[0])


def as_before_scales(table: bytes) -> bytes:
    """The table of a program as it was when bits were an argument and scales were none."""
    data = json.loads(table)
    for node in data["graph_module"]["graph"]["nodes"]:
        if node["target"].startswith("torch.ops.gq.codebook_"):
            kept = [
                one
                for one in node["inputs"]
                if one["name"].partition("_")[0] not in ("scale", "zero")
            ]
            bits = [
                {"name": one["name"].replace("codebook", "bits"), "arg": {"as_int": 4}, "kind": 1}
                for one in kept
                if one["name"].startswith("codebook")
            ]
            node["inputs"] = [*kept[:-1], *bits, kept[-1]]
    return json.dumps(data).encode()


def test_a_file_from_before_weights_had_scales_is_read(tmp_path):
    model = Lstm(6, 5)
    arguments = torch.randn(1, 3, 6), torch.zeros(1, 5), torch.zeros(1, 5)
    good, old = tmp_path / "good.pt2", tmp_path / "old.pt2"
    torch.export.save(torch.export.export(model, arguments), good)
    altered(good, old, {"models/model.json": as_before_scales})
    program = frontend.read(old).programs["main"]
    assert str(program.graph) == str(frontend.read(good).programs["main"].graph)
    torch.testing.assert_close(program.module()(*arguments), model(*arguments))


def test_of_a_view_the_bytes_it_needs_are_read(file):
    with zipfile.ZipFile(Archive(file).rewritten()) as rewritten:
        sizes = {one.filename: one.file_size for one in rewritten.infolist()}
    assert max(size for name, size in sizes.items() if "weight_" in name) < 300


Named = namedtuple("Named", "first second")


class Mapped(dict):
    """A class of outputs that another package might define."""


def test_classes_of_outputs_need_not_be_known(file, tmp_path):
    _pytree.register_pytree_node(
        Mapped,
        lambda one: (list(one.values()), list(one)),
        lambda values, keys: Mapped(zip(keys, values, strict=True)),
        serialized_type_name="tests.Mapped",
    )

    class Returning(nn.Module):
        def forward(self, x):
            return Mapped(a=x + 1, b=(x, Mapped(c=x - 1)))

    path = tmp_path / "mapped.pt2"
    torch.export.save(torch.export.export(Returning(), (torch.randn(2),)), path)
    elsewhere = altered(
        path,
        tmp_path / "elsewhere.pt2",
        {"models/model.json": lambda text: text.replace(b"tests.Mapped", b"other.Unknown")},
    )
    program = frontend.read(elsewhere).programs["main"]
    a, (b, (c,)) = program.module()(torch.zeros(2))
    assert [float(one[0]) for one in (a, b, c)] == [1, 0, -1]


def harmless() -> bytes:
    content = io.BytesIO()
    torch.save([1, 2], content)
    return content.getvalue()


def pickled(text: bytes) -> bytes:
    return text.replace(b'"use_pickle": false', b'"use_pickle": true')


def renamed(prefix: bytes) -> Any:
    return lambda text: text.replace(b'"tensor_0"', b'"' + prefix + b'_0"')


@pytest.mark.parametrize(
    ("edits", "added", "what"),
    [
        ({"weights_config.json": pickled}, {}, "a pickled tensor"),
        ({"constants_config.json": pickled}, {}, r"a pickled tensor \(shift\)"),
        ({"constants_config.json": renamed(b"custom_obj")}, {}, r"a pickled tensor \(shift\)"),
        ({}, {"data/constants/opaque_obj_0": pickle.dumps([1])}, "pickled constants"),
        ({}, {"data/constants/custom_obj_0": harmless()}, "pickled constants"),
        ({}, {"data/constants/model.pt": harmless()}, "pickled constants"),
        ({}, {"data/weights/model.pt": harmless()}, "pickled weights"),
        ({}, {"data/aotinductor/model/model.so": b"stub"}, "compiled code"),
        ({"sample_inputs/model.pt": lambda _: harmless()[:-1]}, {}, "damaged"),
    ],
)
def test_what_would_be_unpickled_or_run_is_refused(file, tmp_path, edits, added, what):
    path = altered(file, tmp_path / "other.pt2", edits, added)
    with pytest.raises(Error, match=what) as refusal:
        frontend.read(path)
    assert what == "damaged" or "which could run anything; if you trust it" in str(refusal.value)


def test_sample_inputs_of_a_class_are_refused(file, tmp_path):
    content = io.BytesIO()
    torch.save(((Named(torch.ones(1), 2),), {}), content)
    edits = {"sample_inputs/model.pt": lambda _: content.getvalue()}
    with pytest.raises(Error, match="sample inputs that are not tensors alone, which could run"):
        frontend.read(altered(file, tmp_path / "other.pt2", edits))


def huge(text: bytes) -> bytes:
    config = json.loads(text)
    for entry in config["config"].values():
        entry["tensor_meta"]["sizes"] = [{"as_int": 2**40} for _ in entry["tensor_meta"]["sizes"]]
    return json.dumps(config).encode()


def nested(_: bytes) -> bytes:
    return b"[" * 100_000


@pytest.mark.parametrize(
    ("edits", "options", "what"),
    [
        ({}, {"compression": zipfile.ZIP_DEFLATED}, "is compressed, which PyTorch never does"),
        ({"weights_config.json": huge}, {}, r"weight_\d has \d+ bytes of \d+"),
        ({"weights_config.json": nested}, {}, "is not valid JSON"),
        ({"models/model.json": nested}, {}, "is not valid JSON"),
        ({"models/model.json": lambda _: b"{}"}, {}, "the table of a program"),
        ({"constants_config.json": lambda _: b"[]"}, {}, "a table of tensors"),
        ({}, {"left_out": "weights_config.json"}, "weights_config.json is missing"),
        ({}, {"left_out": "constants/tensor_0"}, "tensor_0 is missing"),
        ({}, {"left_out": "archive_format"}, "archive_format is missing"),
        ({"weights/weight_0": lambda data: data[:3]}, {}, "has 3 bytes of"),
        ({"sample_inputs/model.pt": lambda _: b"cut"}, {}, "sample_inputs/model.pt is damaged"),
    ],
)
def test_damage_is_told_of(file, tmp_path, edits, options, what):
    with pytest.raises(Error, match=what):
        frontend.read(altered(file, tmp_path / "other.pt2", edits, **options))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(file, tmp_path):
    path = altered(file, tmp_path / "other.pt2", added={"archive_format": b"pt2"})
    with pytest.raises(Error, match="two members have one name"):
        frontend.read(path)


def test_a_flipped_bit_is_noticed(file, tmp_path):
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        place = next(one for one in archive.infolist() if one.filename.endswith("weight_0"))
        content[place.header_offset + 200] ^= 1
    path = tmp_path / "flipped.pt2"
    path.write_bytes(content)
    with pytest.raises(Error, match="is damaged"):
        frontend.read(path)


def table(**entries: Any) -> dict[str, Any]:
    return {"graph_module": {"module_call_graph": []}, **entries}


@pytest.mark.parametrize(
    "size",
    [
        "Add(Mul(Integer(2), Symbol('s65', positive=True, integer=True)), Integer(-1))",
        "FloorDiv(Symbol('s0', integer=True), Integer(4))",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "Float('0.5', precision=53)",
        "2*s0 + 1 <= 64",
    ],
)
def test_sizes_are_arithmetic(size):
    assert plain(table(sizes=[{"expr_str": size}]), "x")


@pytest.mark.parametrize(
    "size",
    ["len(x)", "x.y", "s0[0]", "'text'", "Symbol('a b')", "Pow(Integer(9), Integer(9))", "9**9**9"],
)
def test_sizes_that_are_no_arithmetic_are_refused(size):
    with pytest.raises(Error, match="a size that is no arithmetic"):
        plain(table(sizes=[{"expr_str": size}]), "x")


@pytest.mark.parametrize("target", ["torch.nn.Linear", "torch.ops.aten", "print", "a.b", ""])
def test_what_is_no_operator_is_refused(target):
    with pytest.raises(Error, match="which is no operator known here"):
        plain(table(nodes=[{"target": target, "outputs": []}]), "x")
