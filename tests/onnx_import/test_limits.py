"""What a graph says is not believed beyond a bound: nothing is computed that would be larger."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.onnx_graphs import model, one_node, save, value
from onnx import helper

from gq_tvm.errors import Error
from gq_tvm.onnx_import import Options, control, graph_file, read
from gq_tvm.onnx_import.limits import Limited, TooLarge
from gq_tvm.onnx_import.module import GraphModule

HUGE = np.array([2**36, 1], np.int64)
X = {"x": np.ones((2, 3), np.float32)}


def number(one: int, dtype: Any = np.int64) -> Any:
    return np.array(one, dtype)


def ends(path: Any) -> Any:
    """The graph run at its own sizes, as it is before an export."""
    module = GraphModule(graph_file.read(path)).eval()
    with torch.no_grad(), Limited():
        return module(*(torch.ones(2, 3) for _ in module.inputs))


@pytest.mark.parametrize(
    ("operator", "constants", "more"),
    [
        ("ConstantOfShape", {"shape": HUGE}, {}),
        ("ConstantOfShape", {"shape": np.array([2**32, 2**32], np.int64)}, {}),
        ("Range", {"a": number(0), "b": number(2**40), "c": number(1)}, {}),
        ("HannWindow", {"size": number(2**40)}, {}),
        ("MelWeightMatrix", {
            "bands": number(2**20), "length": number(2**20), "rate": number(8000),
            "low": number(0, np.float32), "high": number(4000, np.float32),
        }, {}),
        ("Tile", {"x": np.ones(3, np.float32), "n": np.array([2**36], np.int64)}, {}),
        ("Pad", {"x": np.ones(3, np.float32), "n": np.array([0, 2**36], np.int64)}, {}),
        ("Pow", {"x": number(3), "n": number(2**62)}, {}),
    ],
)  # fmt: skip
def test_a_constant_that_would_be_huge_is_not_computed(operator, constants, more, tmp_path):
    path = save(one_node(operator, {}, constants, **more), tmp_path)
    if operator == "Pow":  # to the width of an int64, as ever
        ends(path)
        return
    with pytest.raises(Error, match=rf"node it \({operator}\) (would make .* more than|cannot be)"):
        ends(path)


@pytest.mark.parametrize("operator", ["Expand", "Tile"])
def test_a_result_that_would_be_huge_is_not_computed(operator, tmp_path):
    sizes = {"sizes": np.array([2**36, 1, 1] if operator == "Expand" else [2**36, 1], np.int64)}
    node = helper.make_node(operator, ["x", "sizes"], ["wide"], name="it")
    nodes = [node, helper.make_node("Relu", ["wide"], ["y"])]
    proto = model(nodes, [value("x", [2, 3])], ["y"], sizes)
    with pytest.raises(Error, match=r"would make a tensor of [\d,]+ bytes"):
        ends(save(proto, tmp_path))


def test_an_input_of_a_size_that_no_memory_holds_is_named(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"])
    proto = model([node], [value("x", [2**20, 2**20])], ["y"])
    with pytest.raises(Error, match=r"input x has 1,099,511,627,776 elements, more than is bel"):
        read(save(proto, tmp_path), Options(compare=False))


def test_loops_within_loops_take_a_bounded_number_of_steps(tmp_path, monkeypatch):
    def loop(depth: int, name: str) -> Any:
        inner = loop(depth - 1, f"{name}i") if depth else helper.make_node("Relu", ["s"], [name])
        body = helper.make_graph(
            [inner, helper.make_node("Identity", ["go"], ["go2"])],
            "body",
            [value("i", [], np.int64), value("go", [], np.bool_), value("s", [2, 3])],
            [helper.make_tensor_value_info(n, 0, None) for n in ("go2", inner.output[0])],
        )
        source = "x" if name == "y" else "s"
        return helper.make_node("Loop", ["count", "", source], [name], body=body)

    proto = model([loop(2, "y")], [value("x", [2, 3])], ["y"], {"count": number(3)})
    ends(save(proto, tmp_path))
    monkeypatch.setattr(control, "_MOST_NESTED", 9)
    with pytest.raises(Error, match="runs 27 times within other loops, more than 9; write it"):
        ends(save(proto, tmp_path))


def test_functions_are_not_spelled_out_without_end(tmp_path, monkeypatch):
    """Each calls the next one twice, which doubles what they are."""
    proto = model([helper.make_node("f0", ["x"], ["y"], domain="own")], [value("x", [2, 3])], ["y"])
    own = [helper.make_opsetid("", 23), helper.make_opsetid("own", 1)]
    proto.opset_import.append(own[1])
    for n in range(4):
        called, domain = (f"f{n + 1}", "own") if n < 3 else ("Relu", "")
        nodes = [
            helper.make_node(called, ["a"], ["b"], domain=domain),
            helper.make_node(called, ["b"], ["c"], domain=domain),
        ]
        proto.functions.append(helper.make_function("own", f"f{n}", ["a"], ["c"], nodes, own))
    path = save(proto, tmp_path)
    assert len(graph_file.read(path).nodes) == 16
    monkeypatch.setattr(graph_file, "_MOST_NODES", 30)
    with pytest.raises(Error, match="more than 30 nodes"):
        graph_file.read(path)


def test_what_is_small_is_computed():
    with Limited(1 << 20):
        assert torch.equal(torch.ones(3) + torch.zeros(2, 1), torch.ones(2, 3))
        with pytest.raises(TooLarge):
            torch.ones(2**10, 1) + torch.ones(1, 2**10)
