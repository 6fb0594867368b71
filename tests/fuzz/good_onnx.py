"""Good ONNX files: a graph for each way in which sizes, constants and codes are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from helpers.onnx_graphs import model, one_node, value
from onnx import TensorProto, helper, numpy_helper

_R = np.random.default_rng(0)
EXTERNAL = "weights.bin"


def _f(*shape: int) -> Any:
    return _R.standard_normal(shape).astype(np.float32)


def _i(*values: int) -> Any:
    return np.array(values, np.int64)


def _shapes() -> Any:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["batches"]),
        helper.make_node("Concat", ["batches", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axis": _i(0), "rest": _i(-1, 8), "w": _f(8, 5), "b": _f(5)}
    return model(nodes, [value("x", ["batch", "time", 4, 2])], ["y"], constants)


def _branches(operator: str) -> Any:
    graphs = {}
    for name, summand in (("then_branch", "a"), ("else_branch", "b")):
        node = helper.make_node("Add", ["x", summand], [f"y_{name}"])
        out = helper.make_tensor_value_info(f"y_{name}", 1, ["n", 3])
        graphs[name] = helper.make_graph([node], name, [], [out])
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["is"]),
        helper.make_node(operator, ["is"], ["y"], **graphs),
    ]
    constants = {"rate": np.array(16000), "a": _f(3), "b": _f(3)}
    return model(nodes, [value("x", ["n", 3]), value("sr", [], np.int64)], ["y"], constants)


def _loop() -> Any:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "one"], ["s2"]),
            helper.make_node("Identity", ["go"], ["go2"]),
            helper.make_node("Identity", ["s2"], ["out"]),
        ],
        "body",
        [value("i", [], np.int64), value("go", [], np.bool_), value("s", [2])],
        [helper.make_tensor_value_info(n, 0, None) for n in ("go2", "s2", "out")],
    )
    nodes = [helper.make_node("Loop", ["count", "", "x"], ["last", "y"], body=body)]
    return model(nodes, [value("x", [2])], ["last", "y"], {"count": np.array(3), "one": _f(1)})


def _looked_up() -> Any:
    nodes = [
        helper.make_node("Gather", ["table", "codes"], ["w1"]),
        helper.make_node("Mul", ["w1", "scale"], ["w2"]),
        helper.make_node("Transpose", ["w2"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    codes = _R.integers(0, 16, (6, 8))
    constants = {"table": _f(16), "codes": codes, "scale": _f(6, 1)}
    return model(nodes, [value("x", ["n", 8])], ["y"], constants)


def _dequantised() -> Any:
    codes = helper.make_tensor("codes", TensorProto.INT4, [6, 8], np.arange(48) % 16 - 8)
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], axis=1, block_size=4),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
    ]
    proto = model(nodes, [value("x", ["n", 8])], ["y"], {"scale": _f(6, 2)})
    proto.graph.initializer.append(codes)
    return proto


def _bits() -> Any:
    packed = _R.integers(0, 256, (6, 1, 16), dtype=np.uint8)
    constants = {"B": packed, "scales": _f(6), "zero_points": np.full(6, 8, np.uint8)}
    return one_node(
        "MatMulNBits", {"A": _f(2, 32)}, constants,
        domain="com.microsoft", K=32, N=6, bits=4, block_size=32,
    )  # fmt: skip


def _folded() -> Any:
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Range", ["start", "limit", "step"], ["range"]),
        helper.make_node("Cast", ["range"], ["floats"], to=1),
        helper.make_node("Tile", ["floats", "twice"], ["tiled"]),
        helper.make_node("Expand", ["tiled", "size"], ["wide"]),
        helper.make_node("Pad", ["wide", "pads"], ["padded"]),
        helper.make_node("Slice", ["padded", "start1", "end1"], ["part"]),
        helper.make_node("Add", ["part", "zeros"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    constants = {
        "size": _i(3, 4), "start": np.array(0), "limit": np.array(2), "step": np.array(1),
        "twice": _i(2), "pads": _i(0, 0, 1, 0), "start1": _i(0), "end1": _i(3),
    }  # fmt: skip
    return model(nodes, [value("x", [3, 4])], ["y"], constants)


def _front_end() -> Any:
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], pads=[1, 1], strides=[2], group=2),
        helper.make_node("BatchNormalization", ["c", "s", "b", "b", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2], strides=[2]),
        helper.make_node("Resize", ["p", "", "scales"], ["u"], mode="nearest"),
        helper.make_node("ConvTranspose", ["u", "t"], ["y"], strides=[2], output_padding=[1]),
    ]
    constants = {
        "k": _f(6, 2, 3), "b": _f(6), "s": _f(6), "v": np.abs(_f(6)),
        "scales": np.array([1, 1, 2], np.float32), "t": _f(6, 3, 4),
    }  # fmt: skip
    return model(nodes, [value("x", ["n", 4, "t"])], ["y"], constants)


def _recurrent() -> Any:
    constants = {"W": _f(2, 12, 4), "R": _f(2, 12, 3), "B": _f(2, 24)}
    return one_node(
        "LSTM", {"X": _f(5, 2, 4)}, constants, 3, hidden_size=3, direction="bidirectional"
    )


def _integers() -> Any:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["f"], to=1),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    codes = _R.integers(0, 256, (4, 3), dtype=np.uint8)
    return model(nodes, [value("x", ["n", 4])], ["y"], {"w": codes})


def _signal() -> Any:
    nodes = [
        helper.make_node("HannWindow", ["length"], ["window"]),
        helper.make_node("STFT", ["x", "hop", "window"], ["spectrum"]),
        helper.make_node("MelWeightMatrix", ["bins", "length", "rate", "low", "high"], ["mel"]),
        helper.make_node("ReduceSumSquare", ["spectrum", "last"], ["power"], keepdims=0),
        helper.make_node("MatMul", ["power", "mel"], ["y"]),
    ]
    constants = {
        "length": np.array(16), "hop": np.array(8), "bins": np.array(4), "rate": np.array(8000),
        "low": np.array(0, np.float32), "high": np.array(4000, np.float32), "last": _i(-1),
    }  # fmt: skip
    return model(nodes, [value("x", [1, 64, 1])], ["y"], constants)


def _external(folder: Path) -> Any:
    weight = _f(4, 3)
    (folder / EXTERNAL).write_bytes(bytes(64) + weight.tobytes())
    held = numpy_helper.from_array(weight, "w")
    onnx.external_data_helper.set_external_data(held, EXTERNAL, offset=64, length=weight.nbytes)
    held.ClearField("raw_data")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, [value("x", ["n", 4])], ["y"])
    proto.graph.initializer.append(held)
    return proto


def files(folder: Path) -> list[bytes]:
    """All of them; what one keeps outside lies in the folder."""
    nearest = one_node("TopK", {"x": _f(2, 5)}, {"k": _i(2)}, 2)
    attention = one_node("Attention", {n: _f(1, 2, 3, 4) for n in "QKV"})
    made = (
        _shapes(), _branches("If"), _loop(), _looked_up(), _dequantised(), _bits(), _folded(),
        _front_end(), _recurrent(), _integers(), _signal(), nearest, attention, _external(folder),
    )  # fmt: skip
    return [one.SerializeToString() for one in made]
