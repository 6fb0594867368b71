"""The problems as ONNX graphs, which ONNX Runtime and OpenVINO read."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import Conformer, StreamingLSTM
from benchmarks.peers.tflite_models import lstm_weight

_OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, NDArray],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
) -> onnx.ModelProto:
    """A model of float inputs and outputs."""

    def infos(tensors: Mapping[str, Sequence[int]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in tensors.items()
        ]

    made = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "benchmark", infos(inputs), infos(outputs), made)
    return helper.make_model(body, opset_imports=_OPSETS, ir_version=9)


def linear(weight: NDArray[np.float32], rows: int) -> onnx.ModelProto:
    """``y = x W^T`` in float."""
    outputs, inputs = weight.shape
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    constants = {"w": np.ascontiguousarray(weight.T)}
    return graph([node], constants, {"x": (rows, inputs)}, {"y": (rows, outputs)})


def dynamic_int8(weight: NDArray[np.float32], rows: int) -> onnx.ModelProto:
    """What ``quantize_dynamic`` makes of it, with a scale a row of W."""
    outputs, inputs = weight.shape
    scale = (np.abs(weight).max(1) / 127).astype(np.float32)
    codes = np.round(weight / scale[:, None]).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "wq", "xz", "wz"], ["yi"]),
        helper.make_node("Cast", ["yi"], ["yf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["scale"]),
        helper.make_node("Mul", ["yf", "scale"], ["y"]),
    ]
    constants = {
        "wq": np.ascontiguousarray(codes.T), "wz": np.zeros(outputs, np.int8), "ws": scale,
    }  # fmt: skip
    return graph(nodes, constants, {"x": (rows, inputs)}, {"y": (rows, outputs)})


def lstm_operator(model: StreamingLSTM) -> onnx.ModelProto:
    """A stack of ONNX's own LSTM operators; inputs x [1, 1, H], h0, c0, h1, ... [1, 1, H]."""
    cells, nodes = model.lstm, []
    width = cells.hidden_size
    constants: dict[str, NDArray] = {}
    inputs: dict[str, Sequence[int]] = {"x": (1, 1, width)}
    outputs: dict[str, Sequence[int]] = {}
    y = "x"
    for n in range(cells.num_layers):
        weight, bias = lstm_weight(cells, n)
        # PyTorch has the gates i, f, g, o; ONNX i, o, f, c.
        i, f, g, o = np.split(np.concatenate([weight, bias[:, None]], axis=1), 4)
        ordered = np.concatenate([i, o, f, g])
        constants |= {
            f"W{n}": ordered[None, :, : cells.input_size].copy(),
            f"R{n}": ordered[None, :, cells.input_size : -1].copy(),
            f"B{n}": np.concatenate([ordered[:, -1], np.zeros(4 * width, np.float32)])[None],
        }
        nodes.append(
            helper.make_node(
                "LSTM", [y, f"W{n}", f"R{n}", f"B{n}", "", f"h{n}", f"c{n}"],
                [f"all{n}", f"new_h{n}", f"new_c{n}"], hidden_size=width,
            )
        )  # fmt: skip
        y = f"new_h{n}"
        inputs |= {f"h{n}": (1, 1, width), f"c{n}": (1, 1, width)}
        outputs |= {f"new_h{n}": (1, 1, width), f"new_c{n}": (1, 1, width)}
    return graph(nodes, constants, inputs, _last_first(outputs, y))


def lstm_cells(model: StreamingLSTM) -> onnx.ModelProto:
    """A stack of LSTM layers in plain operators, both products of a layer one."""
    cells, nodes = model.lstm, []
    width = cells.hidden_size
    constants: dict[str, NDArray] = {}
    inputs: dict[str, Sequence[int]] = {"x": (1, width)}
    outputs: dict[str, Sequence[int]] = {}
    y = "x"
    for n in range(cells.num_layers):
        weight, bias = lstm_weight(cells, n)
        constants |= {f"W{n}": np.ascontiguousarray(weight.T), f"b{n}": bias}

        def add(kind: str, inputs: list[str], *outputs: str, n: int = n, **options: Any) -> None:
            names = [name if name[-1].isdigit() or name == "x" else f"{name}{n}" for name in inputs]
            nodes.append(helper.make_node(kind, names, [f"{o}{n}" for o in outputs], **options))

        add("Concat", [y, "h"], "joined", axis=1)
        add("MatMul", ["joined", "W"], "product")
        add("Add", ["product", "b"], "gates")
        add("Split", ["gates"], "i", "f", "g", "o", axis=1, num_outputs=4)
        for gate in "ifo":
            add("Sigmoid", [gate], f"{gate}_open")
        add("Tanh", ["g"], "g_open")
        add("Mul", ["f_open", "c"], "kept")
        add("Mul", ["i_open", "g_open"], "taken")
        add("Add", ["kept", "taken"], "new_c")
        add("Tanh", ["new_c"], "seen")
        add("Mul", ["o_open", "seen"], "new_h")
        y = f"new_h{n}"
        inputs |= {f"h{n}": (1, width), f"c{n}": (1, width)}
        outputs |= {f"new_h{n}": (1, width), f"new_c{n}": (1, width)}
    return graph(nodes, constants, inputs, _last_first(outputs, y))


def conformer(model: Conformer) -> onnx.ModelProto:
    """PyTorch's own export, with constants folded."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the exporter that needs no further package is the old one
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model, model.example_inputs(), path, input_names=["x"], output_names=["y"],
            opset_version=18, dynamo=False, do_constant_folding=True,
        )  # fmt: skip
        return onnx.load(path)


def weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The constant matrices that products take as their second operand, f32 [N, K], by node."""
    held = {one.name: one for one in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in held:
            matrix = numpy_helper.to_array(held[node.input[1]])
            if matrix.ndim == 2:
                transposed = _attribute(node, "transB")
                found[node.output[0]] = np.ascontiguousarray(matrix if transposed else matrix.T)
    return found


def replace_products(model: onnx.ModelProto, bits: int, block: int) -> tuple[onnx.ModelProto, int]:
    """The same model with MatMulNBits for its products, and the bytes of their weights."""
    found, size = weights(model), 0
    nodes, constants = [], []
    for node in model.graph.node:
        name = node.output[0]
        if name not in found:
            nodes.append(node)
            continue
        outputs, inputs = found[name].shape
        codes, scales = pack_blocks(found[name], bits, block)
        size += codes.nbytes + scales.nbytes
        constants += [
            numpy_helper.from_array(codes, f"{name}_codes"),
            numpy_helper.from_array(scales, f"{name}_scales"),
        ]
        x = node.input[0]
        if _attribute(node, "transA"):
            nodes.append(helper.make_node("Transpose", [x], [f"{name}_t"], perm=[1, 0]))
            x = f"{name}_t"
        biased = len(node.input) > 2
        product = f"{name}_product" if biased else name
        nodes.append(
            helper.make_node(
                "MatMulNBits", [x, f"{name}_codes", f"{name}_scales"], [product],
                domain="com.microsoft", bits=bits, block_size=block, K=inputs, N=outputs,
                accuracy_level=4,
            )
        )  # fmt: skip
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [name]))
    used = {name for node in nodes for name in node.input}
    replaced = onnx.ModelProto()
    replaced.CopyFrom(model)
    kept = [one for one in replaced.graph.initializer if one.name in used]
    del replaced.graph.node[:], replaced.graph.initializer[:]
    replaced.graph.node.extend(nodes)
    replaced.graph.initializer.extend([*kept, *constants])
    if not any(one.domain == "com.microsoft" for one in replaced.opset_import):
        replaced.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return replaced, size


def pack_blocks(
    weight: NDArray[np.float32], bits: int, block: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Weights as MatMulNBits takes them: codes u8 [N, K/block, bytes], scales f32 [N, K/block]."""
    outputs, inputs = weight.shape
    blocks = weight.reshape(outputs, inputs // block, block)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    half = 1 << (bits - 1)
    scales = (largest / -half).astype(np.float32)
    scales[scales == 0] = 1
    codes = np.clip(np.round(blocks / scales[..., None]) + half, 0, 2 * half - 1).astype(np.uint8)
    per_byte = 8 // bits
    fields = codes.reshape(outputs, inputs // block, block // per_byte, per_byte)
    packed = np.zeros(fields.shape[:-1], np.uint8)
    for place in range(per_byte):
        packed |= fields[..., place] << (bits * place)
    return packed, scales


def _last_first(outputs: dict[str, Any], y: str) -> dict[str, Any]:
    return {y: outputs[y], **outputs}


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((one.i for one in node.attribute if one.name == name), 0)
