"""ONNX files as programs: names, sizes, constants, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.onnx_graphs import model, one_node, reference, run, save, value
from onnx import helper, numpy_helper

from gq_tvm import compile as compile_command
from gq_tvm import compress, frontend
from gq_tvm.errors import Error
from gq_tvm.exported import as_module
from gq_tvm.onnx_import import Options, graph_file, read
from gq_tvm.onnx_import.module import GraphModule

R = np.random.default_rng(0)


def f(*shape: int) -> Any:
    return R.standard_normal(shape).astype(np.float32)


def flattening(dtype: Any = np.float32) -> Any:
    """A product behind a reshape to sizes that are computed from the input's."""
    nodes = [
        helper.make_node("Shape", ["x:0"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["batches"]),
        helper.make_node("Concat", ["batches", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["x:0", "sizes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head.weight"], ["product"]),
        helper.make_node("Add", ["product", "head.bias"], ["y"]),
    ]
    constants = {
        "zero": np.array(0, np.int64),
        "axis": np.array([0], np.int64),
        "rest": np.array([-1, 8], np.int64),
        "head.weight": f(8, 5),
        "head.bias": f(5),
    }
    return model(nodes, [value("x:0", ["batch", "time", 4, 2], dtype)], ["y"], constants)


def chosen() -> Any:
    """An If on an input of one number: other sums for 16000 than for the rest."""
    branches = {}
    for name, summand in (("then_branch", "a"), ("else_branch", "b")):
        node = helper.make_node("Add", ["x", summand], [f"y_{name}"])
        out = helper.make_tensor_value_info(f"y_{name}", 1, ["n", 3])
        branches[name] = helper.make_graph([node], name, [], [out])
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["is"]),
        helper.make_node("If", ["is"], ["y"], **branches),
    ]
    constants = {"rate": np.array(16000, np.int64), "a": f(3), "b": f(3)}
    return model(nodes, [value("x", ["n", 3]), value("sr", [], np.int64)], ["y"], constants)


def test_inputs_keep_their_names_and_sizes_known_at_run_time(tmp_path):
    proto = flattening()
    program = read(save(proto, tmp_path), Options(compare=False))
    assert program.graph_signature.user_inputs == ("x_0",)
    (placeholder,) = [n for n in program.graph.nodes if n.name == "x_0"]
    shape = placeholder.meta["val"].shape
    assert [isinstance(one, torch.SymInt) for one in shape] == [True, True, False, False]
    for sizes in ((1, 1), (2, 7)):
        x = f(*sizes, 4, 2)
        got = program.module()(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(got, reference(proto, {"x:0": x})[0], atol=1e-5)


def test_a_weight_is_that_of_a_layer_of_its_name(tmp_path):
    program = read(save(flattening(), tmp_path), Options(compare=False))
    assert set(program.state_dict) == {"head.weight", "head.bias"}


def test_a_size_can_be_made_a_constant(tmp_path):
    options = Options(sizes={"batch": 3, "x:0.1": 4}, compare=False)
    program = read(save(flattening(), tmp_path), options)
    (placeholder,) = [n for n in program.graph.nodes if n.name == "x_0"]
    assert tuple(placeholder.meta["val"].shape) == (3, 4, 4, 2)


@pytest.mark.parametrize("rate", [16000, 8000])
def test_an_if_on_data_takes_what_the_data_say(rate: int, tmp_path):
    proto, inputs = chosen(), {"x": f(2, 3), "sr": np.array(rate, np.int64)}
    (got,) = run(proto, inputs, tmp_path)
    np.testing.assert_allclose(got, reference(proto, inputs)[0])


@pytest.mark.parametrize("rate", [16000, 8000])
def test_an_input_made_a_constant_is_none_and_its_if_is_folded(rate: int, tmp_path):
    proto, x = chosen(), f(2, 3)
    program = read(save(proto, tmp_path), Options(fixed={"sr": rate}, compare=False))
    assert program.graph_signature.user_inputs == ("x",)
    assert not any("where" in str(node.target) for node in program.graph.nodes)
    wanted = reference(proto, {"x": x, "sr": np.array(rate, np.int64)})[0]
    np.testing.assert_allclose(program.module()(torch.from_numpy(x)).detach(), wanted)


def test_of_an_if_whose_other_branch_does_not_run_that_one_gives_nan(tmp_path):
    branches = {}
    for name, width in (("then_branch", 4), ("else_branch", 5)):
        node = helper.make_node("Reshape", ["x", f"shape{width}"], [f"y_{name}"])
        out = helper.make_tensor_value_info(f"y_{name}", 1, None)
        branches[name] = helper.make_graph([node], name, [], [out])
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["is"]),
        helper.make_node("If", ["is"], ["y"], **branches),
    ]
    constants = {"rate": np.array(8000, np.int64)}
    constants |= {f"shape{n}": np.array([n, 2], np.int64) for n in (4, 5)}
    proto = model(nodes, [value("x", [8]), value("sr", [], np.int64)], ["y"], constants)
    said: list[str] = []
    program = read(save(proto, tmp_path), Options(compare=False), said.append)
    assert "only its then branch runs" in said[0]
    x, module = torch.from_numpy(f(8)), program.module()
    np.testing.assert_array_equal(module(x, torch.tensor(8000)), x.reshape(4, 2))
    assert module(x, torch.tensor(16000)).isnan().all()


def test_sizes_that_a_graph_was_not_traced_for_are_out_of_range(tmp_path):
    """It squeezes one frame, and was traced with one."""
    branches = {}
    for name, node in (
        ("then_branch", helper.make_node("Squeeze", ["pooled", "two"], ["s"])),
        ("else_branch", helper.make_node("Identity", ["pooled"], ["s2"])),
    ):
        out = helper.make_tensor_value_info(node.output[0], 1, None)
        branches[name] = helper.make_graph([node], name, [], [out])
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[40], strides=[40]),
        helper.make_node("Shape", ["pooled"], ["frames"], start=2),
        helper.make_node("Squeeze", ["frames"], ["count"]),
        helper.make_node("Equal", ["count", "one"], ["is"]),
        helper.make_node("If", ["is"], ["y"], **branches),
    ]
    constants = {"one": np.array(1, np.int64), "two": np.array([2], np.int64)}
    proto = model(nodes, [value("x", ["batch", 3, "time"])], ["y"], constants)
    program = read(save(proto, tmp_path), Options(compare=False))
    ranges = sorted((int(one.lower), one.upper) for one in program.range_constraints.values())
    assert ranges[1] == (40, 79)
    assert ranges[0][0] == 1


def test_all_nodes_that_are_not_known_are_named_at_once(tmp_path):
    nodes = [
        helper.make_node("NonZero", ["x"], ["a"], name="first"),
        helper.make_node("NonZero", ["x"], ["b"], name="second"),
        helper.make_node("Magic", ["x"], ["c"], name="third", domain="com.microsoft"),
    ]
    with pytest.raises(Error, match=r"NonZero \(2 times, first, second\); com.microsoft.Magic"):
        read(save(model(nodes, [value("x", [2, 3])], ["a"]), tmp_path))


@pytest.mark.parametrize("opset", [13, 99])
def test_the_number_of_an_opset_is_no_reason_to_refuse(opset: int, tmp_path):
    proto = one_node("Relu", {"x": f(2, 3)}, opset=opset)
    proto.ir_version = 99
    (got,) = run(proto, {"x": np.array([[-1, 2, 3], [4, 5, -6]], np.float32)}, tmp_path)
    assert got.min() == 0


def test_data_beside_a_file_are_read_and_others_refused(tmp_path):
    proto, x = flattening(), f(2, 3, 4, 2)
    wanted = reference(proto, {"x:0": x})[0]
    onnx.save(
        proto,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    program = read(tmp_path / "model.onnx", Options(compare=False))
    got = program.module()(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(Error):
        read(tmp_path / "model.onnx", Options(compare=False))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no ONNX graph"),
        (b"\x08\x0a\x12\x07pytorch\xff\xff\xff", "damaged ONNX file"),
        (b"text, not a model", "damaged ONNX file"),
    ],
)
def test_a_bad_file_is_one_sentence_and_exit_code_2(content: bytes, message: str, tmp_path, capsys):
    (tmp_path / "bad.onnx").write_bytes(content)
    argv = [str(tmp_path / "bad.onnx"), "-o", str(tmp_path / "out.gq")]
    assert compile_command.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_what_has_no_known_size_names_its_node(tmp_path):
    node = helper.make_node("Reshape", ["x", "n"], ["y"], name="the/Reshape")
    proto = model([node], [value("x", [2, 3]), value("n", [1], np.int64)], ["y"])
    with pytest.raises(
        Error, match=r"node the/Reshape \(Reshape\) takes input 1 \(n\) as computed"
    ):
        read(save(proto, tmp_path))


def test_an_operator_without_its_inputs_is_refused(tmp_path):
    proto = model([helper.make_node("Equal", ["x"], ["y"])], [value("x", ["n", 3])], ["y"])
    with pytest.raises(Error, match="Equal"):
        read(save(proto, tmp_path), Options(compare=False))


def test_an_output_that_nothing_computes_is_refused(tmp_path):
    proto = model([helper.make_node("Abs", ["x"], ["y"])], [value("x", ["n", 3])], ["y"])
    graph = graph_file.read(save(proto, tmp_path))
    graph.outputs[0] = ""
    with pytest.raises(Error, match="an output without a name that nothing computes"):
        GraphModule(graph)(torch.ones(2, 3))


@pytest.mark.parametrize("kind", ["gather", "dequantise", "nbits"])
def test_weights_in_codebooks_stay_packed(kind: str, tmp_path):
    codes = R.integers(0, 16, (32, 8)).astype(np.uint8)
    inputs = {"x": f(3, 32)}
    if kind == "gather":
        nodes = [
            helper.make_node("Cast", ["codes"], ["wide"], to=7),
            helper.make_node("Gather", ["table", "wide"], ["w"]),
        ]
        constants = {"codes": codes, "table": f(16)}
        wanted = inputs["x"] @ constants["table"][codes]
    elif kind == "dequantise":
        nodes = [helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["w"], axis=1)]
        constants = {"codes": codes, "s": np.abs(f(8)), "z": np.full(8, 7, np.uint8)}
        wanted = inputs["x"] @ ((codes.astype(np.float32) - 7) * constants["s"])
    if kind == "nbits":
        node = helper.make_node(
            "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=32, N=8, block_size=16
        )
        rows = codes.T.reshape(8, 2, 16)
        constants = {"b": rows[..., ::2] | (rows[..., 1::2] << 4), "s": np.abs(f(8, 2))}
        scaled = (rows.astype(np.float32) - 8) * constants["s"][:, :, None]
        wanted, nodes = inputs["x"] @ scaled.reshape(8, 32).T, [node]
    else:
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    proto = model(nodes, [value("x", ["n", 32])], ["y"], constants)
    program = read(save(proto, tmp_path), Options(compare=False))
    assert any("codebook_linear" in str(node.target) for node in program.graph.nodes)
    got = program.module()(torch.from_numpy(inputs["x"])).detach()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.export
def test_a_file_is_compressed_compiled_and_verified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(flattening(), tmp_path)
    assert compress.main(["model.onnx", "-o", "small.pt2", "--no-compare"]) == 0
    assert [*frontend.read("small.pt2").programs["main"].state_dict]
    assert compile_command.main(["small.pt2", "-o", "small.gq", "--kernel", "scalar"]) == 0
    argv = ["model.onnx", "-o", "model.gq", "--size", "time=3", "--no-compare", "--verify"]
    assert compile_command.main(argv) == 0
    assert "no codebook layer" in capsys.readouterr().err


def test_a_model_with_a_batch_norm_can_learn(tmp_path):
    constants = {
        "conv.weight": f(96, 32, 1),
        **{f"norm.{name}": f(96) for name in ("weight", "bias", "mean")},
        "norm.variance": np.abs(f(96)) + 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *list(constants)[1:]], ["y"]),
    ]
    proto = model(nodes, [value("x", ["batch", 32, 8])], ["y"], constants)
    program = read(save(proto, tmp_path), Options(compare=False))
    net = as_module({"main": program})
    assert {"norm.mean", "norm.variance"} <= {name for name, _ in net.named_buffers()}
    x = f(8, 32, 8)
    got = net(torch.from_numpy(x))
    got.sum().backward()
    np.testing.assert_allclose(got.detach().numpy(), reference(proto, {"x": x})[0], atol=1e-5)


def test_numbers_of_four_bits_are_read(tmp_path):
    q = numpy_helper.from_array(np.arange(-8, 8, dtype=np.int8).reshape(4, 4), "q")
    packed = helper.make_tensor(
        "q", onnx.TensorProto.INT4, (4, 4), numpy_helper.to_array(q).reshape(-1).tolist()
    )
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    scale = np.abs(f(2, 4))
    proto = model(nodes, [value("x", [3, 4])], ["y"], {"s": scale})
    proto.graph.initializer.append(packed)
    (got,) = run(proto, {"x": np.eye(4, dtype=np.float32)[:3]}, tmp_path)
    wanted = np.arange(-8, 8).reshape(4, 4) * np.repeat(scale, 2, 0)
    np.testing.assert_allclose(got, wanted[:3], rtol=1e-6)
