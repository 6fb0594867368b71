"""Whole models as ONNX files: what ONNX Runtime computes, what is in them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from helpers.codebook_models import Linear, linear_program
from helpers.float_models import mixed, mixed_inputs
from helpers.onnx_graphs import model, save, value
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn
from torch.export import Dim

import gq_tvm
from gq_tvm import compress, frontend, quantize
from gq_tvm.errors import Error
from gq_tvm.onnx_export import file, naming
from gq_tvm.onnx_export.nbits import blocks_of
from gq_tvm.onnx_import import Options, read
from gq_tvm.ops.weight import Outliers, Weight

R = np.random.default_rng(0)


def f(*shape: int) -> NDArray:
    return R.standard_normal(shape).astype(np.float32)


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options)


class Recurrent(nn.Module):
    """Recurrent layers of all kinds, and products: on a grid, with outliers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Linear(12, 40, activation="int8", per_row=True)
        self.both = nn.LSTM(12, 6, 2, batch_first=True, bidirectional=True)
        self.small = nn.GRU(12, 8)
        self.grid = Linear(5, 8)
        self.grid.codebook = torch.arange(16.0)[None] * 0.25 - 2

    def forward(self, frames: Tensor, h: Tensor) -> dict[str, Tensor]:
        y, _ = self.both(self.rows(frames))
        z, h = self.small(y.transpose(0, 1), h)
        return {"scores": self.grid(z), "h": h}


@pytest.mark.export
def test_a_model_with_recurrent_layers_runs_any_number_of_frames(tmp_path):
    torch.manual_seed(0)
    module = quantize.compress(
        Recurrent().eval(), 3, overrides={"both": 32}, activation={"*": "int8"}, outliers=0.005
    )
    args = torch.randn(2, 7, 40), torch.randn(1, 2, 8)
    batch, time = Dim("batch"), Dim("time")
    sizes = {"frames": {0: batch, 1: time}, "h": {1: batch}}
    said: list[str] = []
    path = tmp_path / "out.onnx"
    gq_tvm.export_onnx(module, args, path, dynamic_shapes=sizes, say=said.append)
    assert said[0].startswith("agrees with ONNX Runtime")
    proto = onnx.load(str(path))
    onnx.checker.check_model(proto, full_check=True)
    shapes = [
        [one.dim_param or one.dim_value for one in end.type.tensor_type.shape.dim]
        for end in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [
        ["batch", "time", 40],
        [1, "batch", 8],
        ["time", "batch", 5],
        [1, "batch", 8],
    ]
    assert [one.name for one in proto.graph.output] == ["scores", "h_out"]
    assert {one.op_type for one in proto.graph.node if one.domain == "com.microsoft"} == {
        "MatMulNBits"
    }
    assert proto.producer_name == "gq-tvm"
    assert b"site-packages" not in path.read_bytes()
    for frames, many in ((1, 1), (30, 3)):
        x, h = torch.randn(many, frames, 40), torch.randn(1, many, 8)
        with torch.no_grad():
            wanted = module(x, h)
        got = session(path).run(None, {"frames": x.numpy(), "h": h.numpy()})
        np.testing.assert_allclose(got[0], wanted["scores"], atol=1e-4)
        np.testing.assert_allclose(got[1], wanted["h"], atol=1e-4)


class Others(nn.Module):
    """An RNN of each kind, and an LSTM that projects its state."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.RNN(12, 8, bidirectional=True, batch_first=True)
        self.second = nn.RNN(16, 6, nonlinearity="relu", batch_first=True)
        self.last = nn.LSTM(6, 9, proj_size=4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x)[0])[0])[0]


@pytest.mark.export
@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_rnns_and_projected_lstms_are_written_and_read_as_what_they_are(activation: str, tmp_path):
    torch.manual_seed(0)
    module = quantize.compress(Others().eval(), 4, activation={"*": activation}, outliers=0)
    path, said = tmp_path / "out.onnx", list[str]()
    sizes = {"x": {0: Dim("batch"), 1: Dim("time")}}
    args = (torch.randn(2, 7, 12),)
    gq_tvm.export_onnx(module, args, path, dynamic_shapes=sizes, say=said.append)
    assert said[0].startswith("agrees with ONNX Runtime")
    again = read(path, Options(compare=False))
    called = {str(one.target) for one in again.graph.nodes if one.op == "call_function"}
    kinds = {one for one in called if "codebook" in one}
    names = ("rnn_tanh", "rnn_relu", "projected_lstm")
    assert kinds == {f"gq.codebook_{one}.default" for one in names}
    for frames, many in ((1, 2), (20, 3)):
        x = torch.randn(many, frames, 12)
        with torch.no_grad():
            wanted = module(x)
        got = session(path).run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(got, wanted, atol=1e-4)
        np.testing.assert_allclose(again.module()(x).detach(), wanted, atol=1e-5)


@pytest.mark.export
def test_a_compressed_model_is_written_and_read_with_the_same_codebooks(tmp_path, capsys):
    torch.export.save(mixed(), tmp_path / "model.pt2")
    words = ["--bits", "4", "--override", "lstm=3", "--activation", "out=fp32"]
    for output in ("small.onnx", "small.pt2"):
        assert (
            compress.main([str(tmp_path / "model.pt2"), "-o", str(tmp_path / output), *words]) == 0
        )
    assert "agrees with ONNX Runtime" in capsys.readouterr().err
    right = frontend.read(tmp_path / "small.pt2").programs["main"]
    again = read(tmp_path / "small.onnx", Options(compare=False))
    wanted, got = (
        {name: one for name, one in program.state_dict.items() if "indices" in name}
        for program in (right, again)
    )
    assert len(got) == len(wanted)
    for one in got.values():
        assert any(torch.equal(one, other) for other in wanted.values())
    inputs = mixed_inputs(3)
    with torch.no_grad():
        scores = right.module()(inputs[0], {"h": inputs[1], "c": inputs[2]})["scores"]
        same = again.module()(*inputs)[0]
    np.testing.assert_allclose(same, scores, atol=1e-4)


@pytest.mark.export
def test_a_compressed_onnx_file_keeps_the_names_it_had(tmp_path, capsys):
    nodes = [
        helper.make_node("MatMul", ["x:0", "head.weight"], ["product"]),
        helper.make_node("Add", ["product", "head.bias"], ["y:1"]),
    ]
    constants = {"head.weight": f(16, 5), "head.bias": f(5)}
    proto = model(nodes, [value("x:0", ["batch", "time", 16])], ["y:1"], constants)
    path, output = save(proto, tmp_path), tmp_path / "out.onnx"
    assert compress.main([str(path), "--bits", "4", "-o", str(output)]) == 0
    assert "bits a weight in codebooks" in capsys.readouterr().out
    graph = onnx.load(str(output)).graph
    (given,), (taken,) = graph.input, graph.output
    sizes = [one.dim_param for one in given.type.tensor_type.shape.dim]
    assert (given.name, taken.name, sizes[:2]) == ("x:0", "y:1", ["batch", "time"])
    x = f(3, 4, 16)
    rounded = session(output).run(None, {"x:0": x})[0]
    right = x @ constants["head.weight"] + constants["head.bias"]
    assert np.linalg.norm(rounded - right) < 0.2 * np.linalg.norm(right)


@pytest.mark.parametrize("form", ["rows", "groups", "tensor"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grid_is_matmulnbits_and_is_read_with_the_same_bits(bits: int, form: str, tmp_path):
    shape = {"rows": (6,), "groups": (6, 3), "tensor": (1,)}[form]
    scale, zero = R.random(shape).astype(np.float32), R.integers(0, 2, shape).astype(np.float32)
    table = np.arange(2**bits, dtype=np.float32)[None] - 1
    indices = R.integers(0, 2**bits, (6, 44)).astype(np.uint8)
    weight = Weight(indices, table, scale, zero)
    found = blocks_of(weight)
    assert found is not None
    names = ["data", "scales", "zeros"]
    node = helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", **found.attributes
    )
    constants = dict(zip(names, found.arrays, strict=True))
    proto = model([node], [value("x", ["n", 44])], ["y"], constants)
    proto.graph.output[0].CopyFrom(value("y", ["n", 6]))
    path, x = save(proto, tmp_path), f(3, 44)
    right = x @ weight.expand().T
    got = session(path).run(None, {"x": x})[0]
    assert np.linalg.norm(got - right) < 1e-5 * np.linalg.norm(right)
    held = read(path, Options(compare=False)).state_dict
    (own,) = [one for name, one in held.items() if name.endswith("indices")]
    assert torch.equal(own, torch.from_numpy(indices))


def test_what_is_no_grid_is_no_matmulnbits():
    indices = R.integers(0, 16, (6, 44)).astype(np.uint8)
    scale, grid = np.ones(1, np.float32), np.arange(16, dtype=np.float32)[None]
    assert blocks_of(Weight(indices, grid, scale)) is not None
    uneven = grid.copy()
    uneven[0, 3] += 0.5
    away = Outliers(np.array([3]), np.ones(1, np.float32))
    for other in (
        Weight(indices, uneven, scale),
        Weight(indices, grid + 1, scale),
        Weight(indices, grid, scale, np.full(1, 0.5, np.float32)),
        Weight(indices, grid, scale, None, away),
        Weight(indices % 8, grid[:, :8], scale),
    ):
        assert blocks_of(other) is None


def test_tensors_lie_beside_a_file_that_would_be_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_MOST_BYTES", 1000)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [value("x", ["n", 16])], ["y"], {"w": f(16, 32)})
    proto.graph.output[0].CopyFrom(value("y", ["n", 32]))
    file.save(ir.from_proto(proto), tmp_path / "out.onnx", {"note": "kept"})
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert onnx.load(str(tmp_path / "out.onnx")).metadata_props[0].value == "kept"
    x = f(2, 16)
    got = session(tmp_path / "out.onnx").run(None, {"x": x})[0]
    np.testing.assert_allclose(
        got, x @ onnx.numpy_helper.to_array(proto.graph.initializer[0]), atol=1e-4
    )


class Counting(nn.Module):
    """A module that changes a buffer."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x + self.count


def test_what_cannot_be_written_is_refused_in_a_sentence(tmp_path):
    path, x = tmp_path / "out.onnx", torch.randn(2, 16)
    with pytest.raises(Error, match="changes its buffer 'count'"):
        gq_tvm.export_onnx(Counting(), (x,), path)
    with pytest.raises(Error, match="example inputs; give them as a tuple"):
        gq_tvm.export_onnx(Counting(), None, path)
    with pytest.raises(Error, match="opset 17 lacks operators"):
        gq_tvm.export_onnx(Counting(), (x,), path, opset=17)
    with pytest.raises(Error, match="cannot write a dict to an ONNX file"):
        gq_tvm.export_onnx({}, (x,), path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.export
def test_several_programs_are_no_graph(tmp_path, capsys):
    program = torch.export.export(nn.Linear(6, 6), (torch.randn(2, 6),))
    from torch.export.pt2_archive._package import package_pt2

    package_pt2(tmp_path / "two.pt2", exported_programs={"one": program, "two": program})
    words = [str(tmp_path / "two.pt2"), "-o", str(tmp_path / "out.onnx")]
    assert compress.main(words) == 2
    assert "holds the programs one, two and an .onnx file one" in capsys.readouterr().err


def test_names_are_as_many_as_inputs_and_all_different():
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    proto = model(nodes, [value("x", ["n", 16])], ["y"])
    program = linear_program()
    with pytest.raises(Error, match="the model has 1 inputs, and 2 are named"):
        naming.name_all(ir.from_proto(proto), program, ["a", "b"], None, None)
    with pytest.raises(Error, match="two inputs or outputs are called a"):
        naming.name_all(ir.from_proto(proto), program, ["a"], ["a"], None)
