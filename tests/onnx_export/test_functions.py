"""Our operators as functions of ONNX: ONNX Runtime computes of them what PyTorch computes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import gq_tvm.ops.torch_ops  # noqa: F401  (registers torch.ops.gq)
from gq_tvm.onnx_functions import DOMAIN, Signature, function, pack, unpack
from gq_tvm.onnx_functions.recognition import recognised

R = np.random.default_rng(0)
Arrays = dict[str, NDArray]
CLOSE = 1e-6  # relative L2 error of sums of floats in another order


def f(*shape: int) -> NDArray:
    return R.standard_normal(shape).astype(np.float32)


def weight(
    shape: tuple[int, ...],
    bits: int,
    scales: str = "rows",
    zero: bool = False,
    outliers: int = 0,
    tables: str = "one",
    dtype: Any = np.float32,
) -> Arrays:
    """A weight by chance; groups have 16 inputs."""
    rows, groups = shape[0], -(-prod(shape[1:]) // 16)
    made: Arrays = {"indices": R.integers(0, 2**bits, shape).astype(np.uint8)}
    forms = {"one": (1,), "rows": (rows // 2,), "groups": (1, groups)}
    made["codebook"] = f(*forms[tables], 2**bits)
    form = {"none": (), "tensor": (1,), "rows": (rows,), "groups": (rows, groups)}[scales]
    if form:
        made["scale"] = (R.integers(1, 9, form) / (1 if dtype == np.uint8 else 8)).astype(dtype)
    if form and zero:
        made["zero"] = R.integers(0, 3, form).astype(dtype)
    if outliers:
        places = R.choice(prod(shape), outliers, False)
        made["outlier_positions"] = np.sort(places).astype(np.int32)
        made["outlier_values"] = f(outliers).astype(np.float16)
    return made


def model_of(
    operator: str, given: Arrays, options: Mapping[str, Any], weights: Mapping[str, Arrays]
) -> Any:
    """A file of one node, and what PyTorch gives."""
    arguments = getattr(torch.ops.gq, operator).default._schema.arguments
    arrays = {f"{k}{end}": v for end, parts in weights.items() for k, v in parts.items()} | given
    names: list[str] = []
    for one in arguments:
        parts = ("h0", "c0") if one.name == "state" else (one.name,)
        names += [name for name in parts if name in arrays]
    sized = ("indices", "codebook", "scale")
    shapes = {f"{k}_shape": v.shape for k, v in arrays.items() if k.startswith(sized)}
    signature = Signature(operator, tuple(names), {**options, **shapes})
    written = function(signature, f"{operator}_1", 18)
    held = []
    for name in sorted(arrays.keys() - given.keys()):
        array = arrays[name]
        if name.startswith("indices"):
            table = arrays[name.replace("indices", "codebook")]
            array = pack(array, (table.shape[-1] - 1).bit_length())
        held.append(numpy_helper.from_array(array, name))
    node = helper.make_node(
        f"{operator}_1", names, written.output, domain=DOMAIN, **signature.attributes
    )
    ends = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(one.dtype), [None] * one.ndim
        )
        for name, one in given.items()
    ]
    args = []
    for one in arguments:
        value = options.get(one.name, arrays.get(one.name, one.default_value))
        if one.name == "state":
            value = [torch.from_numpy(arrays[name]) for name in ("h0", "c0") if name in arrays]
        args.append(torch.from_numpy(value) if isinstance(value, np.ndarray) else value)
    results = getattr(torch.ops.gq, operator)(*args)
    wanted = [results] if isinstance(results, torch.Tensor) else list(results)
    taken = [
        helper.make_tensor_value_info(name, 1, [None] * one.dim())
        for name, one in zip(written.output, wanted, strict=True)
    ]
    graph = helper.make_graph([node], "graph", ends, taken, held)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, functions=[written], opset_imports=imports, ir_version=8)
    return proto, wanted


def compare(
    operator: str,
    given: Arrays,
    options: Mapping[str, Any],
    weights: Mapping[str, Arrays],
    most: float = CLOSE,
) -> None:
    proto, wanted = model_of(operator, given, options, weights)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings)
    for got, one in zip(session.run(None, given), wanted, strict=True):
        assert got.shape == one.shape
        np.testing.assert_array_equal(np.isnan(got), np.isnan(one.numpy()))
        got, right = np.nan_to_num(got), np.nan_to_num(one.numpy())
        assert np.linalg.norm(got - right) <= most * np.linalg.norm(right)


@pytest.mark.parametrize("bits", range(1, 9))
def test_indices_take_their_bits_and_come_back(bits: int):
    indices = R.integers(0, 2**bits, (5, 13)).astype(np.uint8)
    packed = pack(indices, bits)
    assert packed.size == -(-indices.size // 8) * bits
    np.testing.assert_array_equal(unpack(packed, bits, indices.shape), indices)


@pytest.mark.parametrize("activation", ["fp32", "int8", "int2", "int1"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_linear_layer_of_any_bits(bits: int, activation: str):
    """Integers give every bit, rows of NaN and infinity too."""
    x = f(3, 5, 40)
    x[0, 1] = 0
    if activation != "fp32":
        x[1, 1, 3], x[2, 0, 0] = np.nan, np.inf
    most = CLOSE if activation == "fp32" else 0.0
    compare(
        "codebook_linear", {"x": x}, {"activation": activation}, {"": weight((6, 40), bits)}, most
    )


@pytest.mark.parametrize("activation", ["fp32", "int8"])
@pytest.mark.parametrize(
    "form",
    [
        {"scales": "none"},
        {"scales": "tensor", "zero": True},
        {"scales": "rows", "zero": True, "outliers": 7},
        {"scales": "groups"},
        {"scales": "groups", "zero": True, "dtype": np.uint8},
        {"scales": "groups", "zero": True, "dtype": np.float16, "outliers": 3},
        {"scales": "none", "tables": "rows"},
        {"scales": "rows", "tables": "groups"},
    ],
    ids=str,
)
def test_all_forms_of_a_weight(form: dict[str, Any], activation: str):
    held = {"": weight((6, 40), 3, **form), "bias": {}}
    most = CLOSE if activation == "fp32" or "outliers" in form else 0.0
    compare("codebook_linear", {"x": f(4, 40)}, {"activation": activation}, held, most)


@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_convolutions(activation: str):
    own = {"": weight((6, 4, 3), 4, outliers=2) | {"bias": f(6)}}
    options = {"stride": 2, "padding": 2, "dilation": 2, "groups": 1, "activation": activation}
    compare("codebook_conv1d", {"x": f(2, 4, 20)}, options, own)
    options = {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 2], "activation": activation}
    compare("codebook_conv2d", {"x": f(2, 3, 9, 8)}, options, {"": weight((6, 3, 3, 2), 4)})


@pytest.mark.parametrize("form", [{}, {"scales": "tensor"}, {"scales": "rows", "zero": True},
    {"scales": "groups", "outliers": 5}, {"scales": "rows", "tables": "rows"}])  # fmt: skip
@pytest.mark.parametrize("activation", ["fp32", "int8", "int2"])
def test_convolutions_in_groups(form: dict[str, Any], activation: str):
    if activation == "int2" and "outliers" in form:
        form = {**form, "outliers": 0}
    own = {"": weight((6, 4, 5), 3, **form) | {"bias": f(6)}}
    options = {"stride": 2, "padding": 1, "dilation": 1, "groups": 3, "activation": activation}
    most = CLOSE if activation == "fp32" or form.get("outliers") else 0.0
    compare("codebook_conv1d", {"x": f(2, 12, 20)}, options, own, most)


def test_a_depthwise_convolution_and_an_embedding():
    options = {"stride": 1, "padding": 1, "dilation": 1, "groups": 4, "activation": "fp32"}
    compare("codebook_conv1d", {"x": f(2, 4, 9)}, options, {"": weight((8, 1, 3), 4)})
    rows = {"": weight((7, 40), 5, "groups", zero=True, outliers=3)}
    compare("codebook_embedding", {"ids": np.array([[0, 3], [6, 2]])}, {}, rows, 0.0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@pytest.mark.parametrize("activation", ["fp32", "int8"])
def test_recurrent_layers_in_codebooks(activation: str, lengths: Any, reverse: bool):
    given = {"x": f(3, 5, 10), "h0": f(3, 6)}
    given |= {} if lengths is None else {"lengths": np.array(lengths)}
    options = {"activation": activation, "reverse": reverse, "hidden_size": 6}
    for operator, gates, biases, states in (
        ("codebook_lstm", 4, ["bias"], {"c0": f(3, 6)}),
        ("codebook_gru", 3, ["bias_ih", "bias_hh"], {}),
        ("codebook_rnn_tanh", 1, ["bias"], {}),
        ("codebook_rnn_relu", 1, [], {}),
    ):
        held = {
            "_ih": weight((gates * 6, 10), 4, outliers=2),
            "_hh": weight((gates * 6, 6), 3, "tensor", zero=True),
            "": {one: f(gates * 6) for one in biases},
        }
        compare(operator, given | states, options, held, 1e-5)


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@pytest.mark.parametrize("activation", ["fp32", "int8", "int2"])
def test_a_projected_lstm_in_codebooks(activation: str, lengths: Any):
    given = {"x": f(3, 5, 10), "h0": f(3, 4), "c0": f(3, 6)}
    given |= {} if lengths is None else {"lengths": np.array(lengths)}
    held = {
        "_ih": weight((24, 10), 4, outliers=2),
        "_hh": weight((24, 4), 3, "tensor", zero=True),
        "_hr": weight((4, 6), 2),
        "": {"bias": f(24)} if lengths else {},
    }
    for reverse in (False, True):
        options = {"activation": activation, "reverse": reverse, "hidden_size": 6}
        compare("codebook_projected_lstm", given, options, held, 1e-5)


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before", "rnn", "projected"])
def test_recurrent_layers_in_float(cell: str, lengths: Any):
    gates = {"lstm": 4, "projected": 4, "rnn": 1}.get(cell, 3)
    width = 4 if cell == "projected" else 6
    given = {"x": f(3, 5, 10), "h0": f(3, width)}
    given |= {"c0": f(3, 6)} if gates == 4 else {}
    given |= {} if lengths is None else {"lengths": np.array(lengths)}
    held = {
        "weight_ih": f(gates * 6, 10),
        "weight_hh": f(gates * 6, width),
        "bias_hh": f(gates * 6),
    }
    held |= {"weight_hr": f(width, 6)} if cell == "projected" else {}
    cell = "lstm" if cell == "projected" else cell
    functions = "hard_sigmoid,softsign" if cell == "gru" else ""
    options = {"cell": cell, "clip": 0.0, "functions": functions, "hidden_size": 6}
    for reverse in (False, True):
        compare("recurrent", given, {**options, "reverse": reverse}, {"": held}, 1e-5)


def test_a_function_that_was_changed_is_not_taken_for_ours():
    proto, _ = model_of(
        "codebook_linear", {"x": f(2, 40)}, {"activation": "int8"}, {"": weight((6, 40), 3)}
    )
    (node,), (own,) = proto.graph.node, proto.functions
    sizes = {one.name: tuple(one.dims) for one in proto.graph.initializer}
    onnx.checker.check_model(proto, full_check=True)
    assert recognised(node, own, sizes) is not None
    shorter = {**sizes, "indices": (1,)}
    assert recognised(node, own, shorter) is None
    changed = onnx.FunctionProto.FromString(own.SerializeToString())
    next(one for one in changed.node if one.op_type == "Round").op_type = "Floor"
    assert recognised(node, changed, sizes) is None
