"""What an import is compared with: ONNX Runtime, of graphs that it computes as they are meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.onnx_graphs import model, save, value
from onnx import helper

from gq_tvm.errors import Error
from gq_tvm.onnx_import import Options, read
from gq_tvm.onnx_import.exact import to_exact

R = np.random.default_rng(0)


def saved(proto: Any, folder: Path) -> Path:
    """A model's file, with the type of its output, without which ONNX Runtime does not load it."""
    proto.graph.output[0].CopyFrom(value("y", None))
    return save(proto, folder)


def imported(proto: Any, folder: Path) -> float:
    """The error that is told of an import."""
    said: list[str] = []
    read(saved(proto, folder), Options(), said.append)
    (found,) = re.findall("agrees with ONNX Runtime to ([^,]+)", said[-1])
    return float(found)


def integer_product() -> Any:
    nodes = [
        helper.make_node("MatMulInteger", ["a", "b", "a_zero", "b_zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["y"], to=1),
    ]
    constants = {
        "b": R.integers(100, 128, (64, 5)).astype(np.int8),  # pairs of products saturate
        "a_zero": np.array(7, np.uint8),
        "b_zero": np.array(3, np.int8),
    }
    return model(nodes, [value("a", ["n", 64], np.uint8)], ["y"], constants, 21)


def test_integer_products_are_compared_without_saturation(tmp_path):
    assert imported(integer_product(), tmp_path) < 1e-6


def test_raised_weights_mean_the_same_products(tmp_path):
    proto = integer_product()
    assert to_exact(proto)
    (node,) = [one for one in proto.graph.node if one.op_type == "MatMulInteger"]
    casts = {one.output[0]: one.attribute[0].i for one in proto.graph.node if one.op_type == "Cast"}
    assert [casts[node.input[at]] for at in (1, 3)] == [onnx.TensorProto.UINT8] * 2
    assert not to_exact(model([], [value("x", [1])], ["x"], {}, 21))


def test_a_quantised_lstm_is_compared_as_one_of_its_weights(tmp_path):
    hidden, width = 4, 6
    names = ["x", "w", "r", "", "", "", "", "", "s", "z", "s", "z"]
    node = helper.make_node(
        "DynamicQuantizeLSTM", names, ["y"], domain="com.microsoft", hidden_size=hidden
    )
    constants: dict[str, Any] = {
        "w": R.integers(-128, 128, (1, width, 4 * hidden)).astype(np.int8),
        "r": R.integers(-128, 128, (1, hidden, 4 * hidden)).astype(np.int8),
        "s": np.array([0.03], np.float32),
        "z": np.array([-5], np.int8),
    }
    proto = model([node], [value("x", ["time", "batch", width])], ["y"], constants, 21)
    assert imported(proto, tmp_path) < 1e-5


def test_errors_of_nothing_are_none(tmp_path):
    nodes = [
        helper.make_node("Sub", ["x", "much"], ["low"]),
        helper.make_node("Sigmoid", ["low"], ["y"]),
    ]
    proto = model(nodes, [value("x", ["n", 8])], ["y"], {"much": np.full(1, 16, np.float32)})
    assert imported(proto, tmp_path) == 0


def test_another_answer_is_an_error_of_ours(tmp_path, monkeypatch):
    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    proto = model(nodes, [value("x", ["n", 8])], ["y"], {"one": np.ones(1, np.float32)})
    monkeypatch.setattr(
        "gq_tvm.onnx_import.comparison._run", lambda _, given: ([given["x"] + 1.1], "")
    )
    with pytest.raises(Error, match=r"output y differs from ONNX Runtime's by .* --no-compare"):
        read(saved(proto, tmp_path))
