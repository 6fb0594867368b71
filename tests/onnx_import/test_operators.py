"""Each operator against the reference of the onnx package; recurrent ones stand elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.onnx_graphs import check, one_node, run
from torch.nn import functional

R = np.random.default_rng(0)


def f(*shape: int) -> Any:
    return R.standard_normal(shape).astype(np.float32)


def i(*values: Any) -> Any:
    return np.array(values, np.int64)


X = {"x": f(2, 3, 8)}
PICTURE = {"x": f(2, 4, 9, 7)}
POSITIVE = {"x": np.abs(f(2, 3)) + 0.5}
BYTES = {"x": R.integers(0, 255, (3, 8)).astype(np.uint8)}


@pytest.mark.parametrize(
    "operator",
    [
        "Abs",
        "Atan",
        "Ceil",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsNaN",
        "LeakyRelu",
        "Mish",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softplus",
        "Softsign",
        "Tan",
        "Tanh",
        "Celu",
        "Gelu",
        "ThresholdedRelu",
        "Shrink",
        "Softmax",
        "LogSoftmax",
        "Hardmax",
        "Flatten",
        "Transpose",
        "Shape",
        "Size",
        "Squeeze",
        "GlobalAveragePool",
        "LpNormalization",
        "ReduceMean",
        "ArgMax",
        "Not",
    ],
)
def test_an_operator_of_one_input(operator: str, tmp_path):
    given = X["x"] > 0 if operator == "Not" else X["x"]
    check(one_node(operator, {"x": given}), {"x": given}, tmp_path)


@pytest.mark.parametrize("operator", ["Sqrt", "Log", "Asinh", "Acosh"])
def test_an_operator_of_one_positive_input(operator: str, tmp_path):
    given = {"x": POSITIVE["x"] + 1}
    check(one_node(operator, given), given, tmp_path)


@pytest.mark.parametrize(
    "operator",
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Min",
        "Max",
    ],
)
@pytest.mark.parametrize("other", [f(8), np.float32(1.5), f(2, 3, 1), np.full(1, 2, np.float32)])
def test_operands_are_broadcast(operator: str, other: Any, tmp_path):
    check(one_node(operator, X, {"c": np.asarray(other)}), X, tmp_path)


@pytest.mark.parametrize("operator", ["Div", "Mod", "Mul", "Add"])
def test_integers_stay_integers(operator: str, tmp_path):
    given = {"x": i(-7, 7, -8, 9)}
    check(one_node(operator, given, {"c": i(2, -2, 3, 4)}), given, tmp_path)


BY_NAME: dict[str, tuple[Any, ...]] = {
    "clip of one side": ("Clip", X, {"low": np.float32(-0.5)}),
    "clip by attributes": ("Clip", X, {}, {"min": -0.5, "max": 0.25, "opset": 6}),
    "power of a constant": ("Pow", POSITIVE, {"c": np.float32(2.0)}),
    "power by row": ("Pow", POSITIVE, {"c": f(3)}),
    "log softmax before 13": ("LogSoftmax", X, {}, {"opset": 11, "axis": 2}),
    "prelu": ("PRelu", X, {"slope": f(3, 1)}),
    "cast to int": ("Cast", X, {}, {"to": 7}),
    "cast to bool": ("Cast", X, {}, {"to": 9}),
    "where": ("Where", {"c": X["x"] > 0, **X}, {"other": f(8)}),
    "mean of three": ("Mean", {"a": f(2, 3), "b": f(2, 3), "c": f(3)}, {}),
    "sum with a constant first": ("Sum", X, {"c": f(8)}, {"order": ["c", "x"]}),
    # shapes
    "reshape keeps sizes": ("Reshape", X, {"shape": i(0, -1, 2)}),
    "reshape allowing zero": ("Reshape", {"x": f(0, 3)}, {"shape": i(3, 0)}, {"allowzero": 1}),
    "expand": ("Expand", {"x": f(3, 1)}, {"shape": i(2, 1, 4)}),
    "tile": ("Tile", {"x": f(2, 3)}, {"repeats": i(2, 3)}),
    "concat": ("Concat", {"a": f(2, 3), "b": f(2, 1)}, {}, {"axis": -1}),
    "squeeze by attribute": ("Squeeze", {"x": f(1, 3, 1)}, {}, {"axes": [0], "opset": 11}),
    "squeeze by input": ("Squeeze", {"x": f(1, 3, 1)}, {"axes": i(-1)}),
    "unsqueeze": ("Unsqueeze", {"x": f(2, 3)}, {"axes": i(0, -1)}),
    "slice with steps": (
        "Slice",
        X,
        {"s": i(1, 6), "e": i(3, 0), "a": i(1, 2), "t": i(1, -2)},
    ),
    "slice to the front": (
        "Slice",
        X,
        {"s": i(-1), "e": i(-(2**63)), "a": i(2), "t": i(-1)},
    ),
    "slice beyond the end": ("Slice", X, {"s": i(-100), "e": i(2**62), "a": i(-1)}),
    "slice by attributes": ("Slice", X, {}, {"starts": [1], "ends": [-1], "axes": [2], "opset": 9}),
    "split by sizes": ("Split", X, {"s": i(3, 5)}, {"axis": 2, "outputs": 2}),
    "split evenly but the last": ("Split", X, {}, {"axis": 2, "outputs": 3, "num_outputs": 3}),
    "pad of constants": ("Pad", X, {"p": i(0, 1, 2, 1, 0, 3), "v": np.float32(0.5)}),
    "pad reflecting": ("Pad", X, {"p": i(0, 1, 2, 0, 0, 3)}, {"mode": "reflect"}),
    "pad with edges": ("Pad", X, {"p": i(1, 0, 2, 1, 0, 3)}, {"mode": "edge"}),
    "pad by axes": ("Pad", X, {"p": i(2, 1), "v": np.float32(0), "a": i(-1)}),
    "trilu": ("Trilu", {"x": f(2, 4, 5)}, {"k": np.array(1, np.int64)}, {"upper": 0}),
    "eye like": ("EyeLike", {"x": f(3, 5)}, {}, {"k": 1}),
    "depth to space": ("DepthToSpace", {"x": f(1, 8, 2, 3)}, {}, {"blocksize": 2}),
    "depth to space by columns": (
        "DepthToSpace",
        {"x": f(1, 8, 2, 3)},
        {},
        {"blocksize": 2, "mode": "CRD"},
    ),
    "space to depth": ("SpaceToDepth", {"x": f(1, 2, 4, 6)}, {}, {"blocksize": 2}),
    "reverse sequence": (
        "ReverseSequence",
        {"x": f(5, 3, 2), "n": i(5, 1, 3)},
        {},
        {"time_axis": 0, "batch_axis": 1},
    ),
    "reverse sequence, batch first": (
        "ReverseSequence",
        {"x": f(3, 5, 2), "n": i(5, 1, 3)},
        {},
        {"time_axis": 1, "batch_axis": 0},
    ),
    # by indices
    "gather": ("Gather", {"x": f(4, 5)}, {"n": i([0, -1], [2, 3])}, {"axis": 1}),
    "gather of one": ("Gather", {"x": f(4, 5)}, {"n": np.array(-1, np.int64)}, {"axis": 0}),
    "embedding": ("Gather", {"n": i([0, -1], [2, 3])}, {"w": f(4, 5)}, {"order": ["w", "n"]}),
    "gather elements": ("GatherElements", {"x": f(2, 4)}, {"n": i([0, -1], [2, 0])}, {"axis": 1}),
    "gather nd": ("GatherND", {"x": f(3, 4, 2)}, {"n": i([0, -1], [2, 0])}),
    "gather nd in batches": ("GatherND", {"x": f(2, 4, 2)}, {"n": i([1], [3])}, {"batch_dims": 1}),
    "scatter elements": (
        "ScatterElements",
        {"x": f(3, 4)},
        {"n": i([0, -1], [2, 0]), "u": f(2, 2)},
        {"axis": 1},
    ),
    "scatter elements adding": (
        "ScatterElements",
        {"x": f(3, 4)},
        {"n": i([0, 0], [2, 2]), "u": f(2, 2)},
        {"axis": 1, "reduction": "add"},
    ),
    "scatter nd": ("ScatterND", {"x": f(4, 3)}, {"n": i([0], [-1]), "u": f(2, 3)}),
    "scatter nd of elements": ("ScatterND", {"x": f(4, 3)}, {"n": i([0, 1], [3, 2]), "u": f(2)}),
    "one hot": (
        "OneHot",
        {"x": i(0, 2, -1)},
        {"d": np.array(4, np.int64), "v": np.array([-1, 5], np.float32)},
    ),
    "top k": ("TopK", {"x": f(3, 9)}, {"k": i(4)}, {"outputs": 2, "axis": 1}),
    "top k, smallest": (
        "TopK",
        {"x": f(3, 9)},
        {"k": i(4)},
        {"outputs": 2, "axis": 0 - 1, "largest": 0},
    ),
    "cumulative sum": ("CumSum", {"x": f(3, 9)}, {"a": np.array(1, np.int64)}),
    "cumulative sum, exclusive, backward": (
        "CumSum",
        {"x": f(3, 9)},
        {"a": np.array(-1, np.int64)},
        {"exclusive": 1, "reverse": 1},
    ),
    # reductions
    "sum by input axes": ("ReduceSum", X, {"a": i(0, -1)}, {"keepdims": 0}),
    "max by attribute axes": ("ReduceMax", X, {}, {"axes": [1], "opset": 11}),
    "nothing to reduce": ("ReduceSum", X, {"a": i()}, {"noop_with_empty_axes": 1}),
    "l2": ("ReduceL2", X, {"a": i(1)}),
    "l1": ("ReduceL1", X, {"a": i(1)}),
    "log sum exp": ("ReduceLogSumExp", X, {"a": i(2)}),
    "sum of squares": ("ReduceSumSquare", X, {"a": i(2)}),
    "product": ("ReduceProd", X, {"a": i(1, 2)}),
    "min": ("ReduceMin", X, {"a": i(2)}, {"keepdims": 0}),
    "argument, last": ("ArgMin", {"x": i([3, 1, 1], [2, 2, 2])}, {}, {
        "axis": 1,
        "select_last_index": 1,
        "keepdims": 0,
    }),
    # products
    "linear": ("MatMul", X, {"w": f(8, 5)}),
    "product of tensors": ("MatMul", {"a": f(2, 3, 4), "b": f(2, 4, 5)}, {}),
    "gemm": ("Gemm", {"x": f(3, 4)}, {"w": f(5, 4), "b": f(5)}, {
        "transB": 1,
        "alpha": 0.5,
        "beta": 2.0,
    }),
    "gemm turned": ("Gemm", {"x": f(4, 3)}, {"w": f(4, 5), "b": f(3, 5)}, {"transA": 1}),
    "einsum": ("Einsum", {"a": f(2, 3, 4), "b": f(2, 4)}, {}, {"equation": "bij, bj -> bi"}),
    # convolutions
    "conv 1d": ("Conv", X, {"w": f(6, 3, 3), "b": f(6)}, {"pads": [1, 1], "strides": [2]}),
    "conv 1d, unlike padding": ("Conv", X, {"w": f(6, 3, 3)}, {"pads": [2, 0]}),
    "conv, same upper": ("Conv", PICTURE, {"w": f(5, 4, 2, 3)}, {
        "auto_pad": "SAME_UPPER",
        "strides": [2, 2],
    }),
    "conv, same lower": ("Conv", PICTURE, {"w": f(5, 4, 2, 2)}, {"auto_pad": "SAME_LOWER"}),
    "conv, depthwise and dilated": ("Conv", PICTURE, {"w": f(4, 1, 3, 3), "b": f(4)}, {
        "group": 4,
        "dilations": [2, 2],
        "pads": [2, 2, 2, 2],
    }),
    "conv of two tensors": ("Conv", {"x": f(1, 2, 9), "w": f(3, 2, 3)}, {}),
    "transposed conv": ("ConvTranspose", X, {"w": f(3, 4, 4), "b": f(4)}, {
        "strides": [2],
        "pads": [1, 1],
    }),
    "transposed conv, lengthened": ("ConvTranspose", PICTURE, {"w": f(4, 3, 3, 3)}, {
        "strides": [2, 2],
        "output_padding": [1, 1],
        "pads": [1, 1, 1, 1],
    }),
    "transposed conv, unlike padding": ("ConvTranspose", X, {"w": f(3, 4, 4)}, {
        "strides": [2],
        "pads": [0, 2],
    }),
    # pools
    "max pool": ("MaxPool", PICTURE, {}, {"kernel_shape": [3, 3], "strides": [2, 2]}),
    "max pool, rounding up": ("MaxPool", PICTURE, {}, {
        "kernel_shape": [2, 2],
        "strides": [2, 2],
        "ceil_mode": 1,
    }),
    "average pool": ("AveragePool", PICTURE, {}, {
        "kernel_shape": [3, 3],
        "pads": [1, 1, 1, 1],
    }),
    "average pool, unlike padding": ("AveragePool", PICTURE, {}, {
        "kernel_shape": [2, 2],
        "pads": [1, 0, 0, 1],
    }),
    "average pool, counting padding": ("AveragePool", PICTURE, {}, {
        "kernel_shape": [3, 3],
        "pads": [1, 1, 1, 1],
        "count_include_pad": 1,
    }),
    # normalisations
    "batch norm": ("BatchNormalization", PICTURE, {
        "s": f(4),
        "b": f(4),
        "m": f(4),
        "v": np.abs(f(4)),
    }),
    "instance norm": ("InstanceNormalization", PICTURE, {"s": f(4), "b": f(4)}),
    "layer norm": ("LayerNormalization", X, {"s": f(8), "b": f(8)}),
    "layer norm of two axes": ("LayerNormalization", X, {"s": f(3, 8)}, {"axis": 1}),
    "rms norm": ("RMSNormalization", X, {"s": f(8)}),
    "group norm": ("GroupNormalization", PICTURE, {"s": f(4), "b": f(4)}, {"num_groups": 2}),
    # quantised
    "quantise": ("QuantizeLinear", X, {"s": np.float32(0.1), "z": np.uint8(3)}),
    "quantise by axis": ("QuantizeLinear", X, {"s": np.abs(f(3)), "z": np.zeros(3, np.int8)}),
    "dequantise": ("DequantizeLinear", BYTES, {"s": np.float32(0.1), "z": np.uint8(3)}),
    "dequantise by axis": ("DequantizeLinear", BYTES, {"s": f(3)}, {"axis": 0}),
    "quantise by data": ("DynamicQuantizeLinear", X, {}, {"outputs": 3}),
    "integer product": ("MatMulInteger", BYTES, {
        "w": R.integers(-128, 127, (8, 5)).astype(np.int8),
        "a": np.array(7, np.uint8),
        "b": np.array(-3, np.int8),
    }),
    "integer product of tensors": ("MatMulInteger", {
        **BYTES,
        "w": R.integers(-128, 127, (8, 5)).astype(np.int8),
    }, {}),
    "integer convolution": ("ConvInteger", {"x": BYTES["x"].reshape(1, 1, 4, 6)}, {
        "w": R.integers(0, 255, (2, 1, 2, 2)).astype(np.uint8),
        "z": np.array(7, np.uint8),
    }, {"pads": [1, 1, 1, 1]}),
    "quantised product": ("QLinearMatMul", BYTES, {
        "as": np.float32(0.1),
        "az": np.uint8(3),
        "b": R.integers(0, 255, (8, 5)).astype(np.uint8),
        "bs": np.float32(0.01),
        "bz": np.uint8(100),
        "ys": np.float32(0.2),
        "yz": np.uint8(128),
    }),
    "quantised convolution": ("QLinearConv", {"x": BYTES["x"].reshape(1, 1, 4, 6)}, {
        "xs": np.float32(0.1),
        "xz": np.uint8(3),
        "w": R.integers(0, 255, (2, 1, 2, 2)).astype(np.uint8),
        "ws": np.float32(0.01),
        "wz": np.uint8(100),
        "ys": np.float32(0.2),
        "yz": np.uint8(128),
    }),
    # signals
    "stft": ("STFT", {"x": f(2, 64, 1)}, {
        "step": np.array(8, np.int64),
        "window": np.hanning(16).astype(np.float32),
    }, {"onesided": 1}),
    "dft": ("DFT", {"x": f(2, 12, 1)}, {}, {"opset": 17, "axis": 1}),
    "mel filters": ("MelWeightMatrix", {}, {
        "n": np.array(8, np.int64),
        "size": np.array(64, np.int64),
        "rate": np.array(8000, np.int64),
        "low": np.float32(0),
        "high": np.float32(4000),
    }),
    "hann window": ("HannWindow", {}, {"n": np.array(8, np.int64)}),
    # resize
    "nearest": ("Resize", PICTURE, {"s": np.array([1, 1, 2, 2], np.float32)}, {
        "order": ["x", "", "s"],
    }),
    "nearest to sizes": ("Resize", PICTURE, {"n": i(2, 4, 5, 11)}, {
        "order": ["x", "", "", "n"],
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }),
    "resize linear": ("Resize", PICTURE, {"s": np.array([1, 1, 1.5, 0.7], np.float32)}, {
        "order": ["x", "", "s"],
        "mode": "linear",
    }),
    "linear by corners": ("Resize", PICTURE, {"n": i(2, 4, 12, 5)}, {
        "order": ["x", "", "", "n"],
        "mode": "linear",
        "coordinate_transformation_mode": "align_corners",
    }),
    "cubic": ("Resize", PICTURE, {"s": np.array([1, 1, 2, 1.5], np.float32)}, {
        "order": ["x", "", "s"],
        "mode": "cubic",
    }),
    # attention
    "attention": ("Attention", {"q": f(2, 5, 8), "k": f(2, 6, 8), "v": f(2, 6, 8)}, {}, {
        "q_num_heads": 2,
        "kv_num_heads": 2,
    }),
    "attention, causal, shared heads": (
        "Attention",
        {"q": f(2, 4, 5, 8), "k": f(2, 2, 5, 8), "v": f(2, 2, 5, 8)},
        {},
        {"is_causal": 1},
    ),
    "attention with a cap": (
        "Attention",
        {"q": f(2, 4, 5, 8), "k": f(2, 4, 5, 8), "v": f(2, 4, 5, 8)},
        {},
        {"softcap": 2.0, "scale": 0.3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_NAME)
def test_an_operator(name: str, tmp_path):
    operator, inputs, constants, *rest = BY_NAME[name]
    check(one_node(operator, inputs, constants, **(rest[0] if rest else {})), inputs, tmp_path)


def result(operator: str, inputs: Any, folder: Any, constants: Any = None, **options: Any) -> Any:
    (found,) = run(one_node(operator, inputs, constants, **options), inputs, folder)
    return found


def equal(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5, atol=1e-5)


# Where the reference of the onnx package is wrong, or lacks a case.


def test_softmax_before_opset_13_takes_all_axes_from_its_own_on_as_one(tmp_path):
    got = result("Softmax", X, tmp_path, opset=11, axis=1)
    equal(got, torch.softmax(torch.from_numpy(X["x"]).flatten(1), 1).reshape(2, 3, 8))


def test_negative_padding_cuts(tmp_path):
    got = result("Pad", X, tmp_path, {"p": i(0, 0, -1, 0, 0, -2)})
    equal(got, X["x"][:, :, 1:-2])


def test_a_transposed_convolution_in_groups(tmp_path):
    w = f(4, 2, 3, 3)
    got = result("ConvTranspose", PICTURE, tmp_path, {"w": w}, group=2)
    whole = torch.from_numpy(PICTURE["x"])
    equal(got, functional.conv_transpose2d(whole, torch.from_numpy(w), groups=2))


@pytest.mark.parametrize(("automatic", "begin"), [("NOTSET", 1), ("SAME_UPPER", 0)])
def test_a_transposed_convolution_to_a_shape(automatic: str, begin: int, tmp_path):
    w = f(3, 4, 3)
    got = result(
        "ConvTranspose",
        X,
        tmp_path,
        {"w": w},
        strides=[2],
        output_shape=[16],
        auto_pad=automatic,
    )
    whole = functional.conv_transpose1d(torch.from_numpy(X["x"]), torch.from_numpy(w), stride=2)
    equal(got, whole[:, :, begin : begin + 16])


def test_a_pool_of_maxima_behind_unlike_padding(tmp_path):
    got = result("MaxPool", PICTURE, tmp_path, kernel_shape=[2, 2], pads=[0, 0, 1, 1])
    padded = functional.pad(torch.from_numpy(PICTURE["x"]), (0, 1, 0, 1), value=-np.inf)
    equal(got, functional.max_pool2d(padded, 2, 1))


def test_a_pool_of_maxima_over_all(tmp_path):
    equal(result("GlobalMaxPool", PICTURE, tmp_path), PICTURE["x"].max((2, 3), keepdims=True))


def test_normalisation_across_channels(tmp_path):
    got = result("LRN", PICTURE, tmp_path, size=3)
    equal(got, functional.local_response_norm(torch.from_numpy(PICTURE["x"]), 3))
